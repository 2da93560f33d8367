import { Logger, Module, type OnModuleInit } from '@nestjs/common';
import { METHOD_METADATA } from '@nestjs/common/constants.js';
import { APP_GUARD, DiscoveryModule, DiscoveryService, HttpAdapterHost, MetadataScanner } from '@nestjs/core';
import type { FastifyInstance } from 'fastify';
import { CONFIG, type Config } from '../config.ts';
import { ACCESS } from './access.decorator.ts';
import { addEarlyChecks } from './early-checks.ts';
import { JwtStrategy } from './jwt.strategy.ts';
import { KEY_SET_TIMING, RemoteKeys, SharedSecret, SigningKeys } from './signing-keys.ts';
import { TokenGuard } from './token.guard.ts';

/** Who is calling, and whether they may: for every route of the application. Needs a global provider of CONFIG. */
@Module({
  imports: [DiscoveryModule],
  providers: [
    { provide: SigningKeys, inject: [CONFIG], useFactory: signingKeysOf },
    JwtStrategy,
    TokenGuard,
    { provide: APP_GUARD, useExisting: TokenGuard },
  ],
})
export class AuthModule implements OnModuleInit {
  constructor(
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
    host: HttpAdapterHost,
    guard: TokenGuard,
  ) {
    addEarlyChecks(host.httpAdapter.getInstance<FastifyInstance>(), guard);
  }

  /** A route that does not say who may call it is found at start, and not by its first caller. */
  onModuleInit(): void {
    const undeclared = this.discovery.getControllers().flatMap(({ name, metatype }) =>
      this.#handlers(metatype)
        .filter(([, handler]) => !Reflect.hasMetadata(ACCESS, handler))
        .map(([method]) => `${name}.${method}`),
    );
    if (undeclared.length === 0) return;
    throw new Error(`@Public, @RequireScope or @UserOnly is missing on ${undeclared.join(', ')}.`);
  }

  #handlers(controller: unknown): [name: string, handler: object][] {
    if (typeof controller !== 'function') return [];
    const prototype: object = controller.prototype;
    return this.scanner.getAllMethodNames(prototype).flatMap((name) => {
      const handler: unknown = Reflect.get(prototype, name);
      return typeof handler === 'function' && Reflect.hasMetadata(METHOD_METADATA, handler)
        ? [[name, handler]]
        : [];
    });
  }
}

function signingKeysOf({ JWT_SECRET, JWKS_URL, JWKS_ALGORITHMS }: Config): SigningKeys {
  if (JWT_SECRET !== undefined) return new SharedSecret(JWT_SECRET);
  if (JWKS_URL === undefined) throw new Error('Neither JWT_SECRET nor JWKS_URL is set.');
  const logger = new Logger('SigningKeys');
  return new RemoteKeys(JWKS_URL, JWKS_ALGORITHMS, KEY_SET_TIMING, (message) => logger.warn(message));
}
