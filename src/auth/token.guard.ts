import {
  Injectable,
  type CanActivate,
  type ExecutionContext,
  Module,
  type OnModuleInit,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { APP_GUARD, DiscoveryModule, DiscoveryService, MetadataScanner } from '@nestjs/core';
import { Problem } from '../core/errors.ts';
import { carriesBody, parseQuery } from '../http/json-body.ts';
import { Tenants, TenantsModule } from '../tenants/tenants.ts';
import { type Access, isService, type Principal, settingsOf, routesOf } from '../http/access.ts';
import { ChangeFeedModule } from '../cluster/change-feed.ts';
import { Cors } from './cors.ts';
import {
  bearerToken,
  credentialsConflict,
  mayUseCookie,
  originRefused,
  scopeMissing,
  sessionToken,
  tokenInQuery,
  tokenInvalid,
  tokenMissing,
  tokenParameter,
} from './credentials.ts';
import { Budgets } from './budgets.ts';
import { Tickets, TicketsStore } from './tickets.ts';
import { Tokens, TokenStatus } from './tokens.ts';
import { IssuersModule } from './issuers.ts';
import { RevocationsModule } from './revocations.ts';
import { JwtStrategy } from './jwt.strategy.ts';
import { SessionController } from './session.controller.ts';

/**
 * Stands before every handler: finds out who is calling, and holds that against what the handler declares (src/http/access.ts).
 * A handler that declares nothing is closed to all.
 *
 * Nest asks its guards when the body has been read and parsed. The body of a caller who may not send it is not read at all: so a
 * request with a body is admitted before that (`beforeBody`), and every other one by Nest (`canActivate`).
 */
@Injectable()
export class TokenGuard implements CanActivate {
  constructor(
    private readonly tokens: Tokens,
    private readonly tickets: Tickets,
    private readonly tenants: Tenants,
    private readonly cors: Cors,
    private readonly budgets: Budgets,
  ) {}

  /**
   * Before a body is read, on every path, also on those that do not exist.
   * @throws Problem of 400, 401, 403 or 503
   */
  async beforeBody(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    // RFC 9112 § 3.2.
    if (request.headers.host === undefined && request.raw.httpVersion === '1.1')
      throw new Problem('malformed_request', 'The request has no Host.');
    const name = tokenParameter(request.url);
    if (name !== undefined) throw tokenInQuery(name);
    if (carriesBody(request)) await this.#identify(request, reply);
  }

  /** @throws Problem of 401, 403, 429 or 503 */
  async canActivate(context: ExecutionContext): Promise<boolean> {
    const http = context.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const { access, budget } = request.routeOptions.config;
    if (access === undefined)
      throw new Error(`${context.getHandler().name} does not declare who may call it.`);
    if (access.kind === 'public') return true;
    const caller = request.user ?? (await this.#identify(request, http.getResponse()));
    if (budget !== undefined) this.budgets.pay(budget, caller);
    return true;
  }

  /**
   * Who is calling, and whether the route is for them; from then on the request has its `user`. A public route, and
   * a path without a route, say nothing of that: there a caller has to be known, whoever it is.
   *
   * @throws Problem of 401, 403 or 503
   */
  async #identify(request: FastifyRequest, reply: FastifyReply): Promise<Principal> {
    const { access = { kind: 'public' } } = request.routeOptions.config;
    const bearer = bearerToken(request.raw.rawHeaders);
    // A browser adds the cookie by itself; what acts for a service says so.
    if (access.kind === 'service' && bearer === undefined) throw tokenMissing();
    const ticket = access.kind === 'user' ? ticketIn(request, access.ticketQuery) : undefined;
    const caller = await this.#authenticate(request, reply, bearer, ticket);
    if (access.kind !== 'public') authorize(access, caller, Date.now());
    request.user = caller;
    return caller;
  }

  /**
   * Who is calling: by a bearer token, the session cookie, a ticket. Each one that is there has to be good, and all have to be of
   * one user: with two callers, a proxy and this service could take the request for one of each.
   *
   * @param ticket undefined: none, or the route takes none
   */
  async #authenticate(
    request: FastifyRequest,
    reply: FastifyReply,
    token: string | undefined,
    ticket: ShownTicket | undefined,
  ): Promise<Principal> {
    const { headers, raw } = request;
    const bearer = await this.#verify(token);
    const session = await this.#verify(sessionToken(raw.rawHeaders));
    // Last, because it is spent by being redeemed. It is the narrowest of the three, and decides.
    const granted = ticket === undefined ? undefined : await this.#redeem(ticket);
    const caller = granted ?? bearer ?? session;
    if (caller === undefined) throw tokenMissing();
    for (const other of [bearer, session])
      if (other && !isSameCaller(other, caller)) throw credentialsConflict();
    this.cors.confine(request, reply, caller.tenantId);
    const allows = (origin: string) => this.tenants.allowsOrigin(caller.tenantId, origin);
    if (granted === undefined && bearer === undefined && !mayUseCookie(headers, allows))
      throw originRefused();
    return caller;
  }

  /** Once there is nothing else in the query for which the request would be refused. */
  async #redeem({ text, query, schema }: ShownTicket): Promise<Principal> {
    const ticket = this.tickets.read(text);
    parseQuery(schema, query);
    return await this.tickets.redeem(ticket);
  }

  async #verify(token: string | undefined): Promise<Principal | undefined> {
    return token === undefined ? undefined : await this.tokens.verify(token);
  }
}

/** A ticket as it came, beside whatever else the query has. */
interface ShownTicket {
  readonly text: unknown;
  readonly query: unknown;
  /** What the query has to be. */
  readonly schema: z.ZodType;
}

/**
 * A query parameter that came twice is a list, and as such no ticket. HEAD opens no stream, and whoever only looks at a
 * link (a preview, a scanner) must not spend what is in it: to HEAD a ticket is no credential.
 */
function ticketIn({ method, query }: FastifyRequest, schema: z.ZodType | undefined): ShownTicket | undefined {
  if (schema === undefined || method === 'HEAD') return undefined;
  const text = typeof query === 'object' && query !== null && 'ticket' in query ? query.ticket : undefined;
  return text === undefined ? undefined : { text, query, schema };
}

const isSameCaller = (a: Principal, b: Principal): boolean =>
  a.tenantId === b.tenantId && a.subject === b.subject;

function authorize(access: Exclude<Access, { kind: 'public' }>, principal: Principal, now: number): void {
  if (access.kind === 'service') {
    if (!access.anyOf.some((scope) => principal.scopes.has(scope))) throw scopeMissing(access.anyOf);
    return;
  }
  if (isService(principal)) {
    throw new Problem(
      'not_for_services',
      'The token carries the scope of a service; this takes the token of a user.',
    );
  }
  if (!access.clockTolerance && principal.expiresAt <= now) throw tokenInvalid('The token has expired.');
}

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
