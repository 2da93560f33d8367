import { Module, type OnModuleInit } from '@nestjs/common';
import { APP_GUARD, DiscoveryModule, DiscoveryService, MetadataScanner } from '@nestjs/core';
import { ChangeFeedModule } from '../cluster/change-feed.ts';
import { Cors } from './cors.ts';
import { IssuersModule } from './issuers.ts';
import { RevocationsModule } from './revocations.ts';
import { settingsOf } from '../http/access.ts';
import { Tokens, TokenStatus } from './tokens.ts';
import { routesOf } from '../http/routes.ts';
import { Budgets } from './budgets.ts';
import { JwtStrategy } from './jwt.strategy.ts';
import { SessionController } from './session.controller.ts';
import { Tickets, TicketsStore } from './tickets.ts';
import { TokenGuard } from './token.guard.ts';
import { TenantsModule } from '../tenants/tenants.ts';

/** Who is calling, and whether they may: for every route of the application. Needs global providers of CONFIG and the database. */
@Module({
  imports: [DiscoveryModule, ChangeFeedModule, IssuersModule, TenantsModule, RevocationsModule],
  controllers: [SessionController],
  providers: [
    Cors,
    JwtStrategy,
    TokenStatus,
    Budgets,
    Tokens,
    Tickets,
    TicketsStore,
    TokenGuard,
    { provide: APP_GUARD, useExisting: TokenGuard },
  ],
  exports: [TokenStatus, Tokens, Tickets],
})
export class AuthModule implements OnModuleInit {
  constructor(
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
  ) {}

  /** A route that does not say who may call it is found at start, and not by its first caller. */
  onModuleInit(): void {
    const undeclared = routesOf(this.discovery, this.scanner)
      .filter(({ handler }) => settingsOf(handler)?.access === undefined)
      .map(({ name }) => name);
    if (undeclared.length === 0) return;
    throw new Error(`@Public, @RequireScope or @UserOnly is missing on ${undeclared.join(', ')}.`);
  }
}
