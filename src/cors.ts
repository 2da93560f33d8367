import { Injectable, type OnApplicationBootstrap } from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { TenantId } from './identifiers.ts';
import { Tenants } from './tenants/tenants.ts';

/** What a page may send, and for how many seconds a browser need not ask again. */
const PREFLIGHT = {
  'access-control-allow-methods': 'GET, POST, PATCH, DELETE',
  'access-control-allow-headers':
    'Authorization, Last-Event-ID, Content-Type, Idempotency-Key, X-Request-Id, traceparent, Cache-Control',
  'access-control-max-age': '600',
};

/** What a page may read besides the body. */
const EXPOSED =
  'Location, Retry-After, RateLimit, RateLimit-Policy, Idempotency-Replayed, X-Request-Id, WWW-Authenticate';

/**
 * Which pages of other origins may call (Fetch standard, CORS protocol).
 *
 * A preflight carries no token, so that nobody knows yet for which tenant the page will call: every origin that any
 * tenant allows passes. Once the caller is known, the answer can be read by pages of the caller's tenant only.
 */
@Injectable()
export class Cors implements OnApplicationBootstrap {
  constructor(
    private readonly host: HttpAdapterHost,
    private readonly tenants: Tenants,
  ) {}

  /** After the hook that gives a request its id, which also a preflight gets. */
  onApplicationBootstrap(): void {
    const fastify = this.host.httpAdapter.getInstance<FastifyInstance>();
    fastify.addHook('onRequest', (request, reply, done) => {
      // Also without an origin: a cache must not give that answer to a page.
      void reply.header('vary', 'Origin');
      const { origin } = request.headers;
      if (origin === undefined || !this.tenants.allowsOriginSomewhere(origin)) return done();
      void reply.headers({
        'access-control-allow-origin': origin,
        'access-control-allow-credentials': 'true',
        'access-control-expose-headers': EXPOSED,
      });
      if (request.method !== 'OPTIONS' || !('access-control-request-method' in request.headers))
        return done();
      void reply.headers(PREFLIGHT).status(204).send();
    });
  }

  /** Called as soon as the caller is known, before anything of the tenant stands in the answer. */
  confine({ headers: { origin } }: FastifyRequest, reply: FastifyReply, tenantId: TenantId): void {
    if (origin === undefined || this.tenants.allowsOrigin(tenantId, origin)) return;
    reply.removeHeader('access-control-allow-origin').removeHeader('access-control-allow-credentials');
  }
}
