import { Injectable, Logger } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { LogThrottle } from '../concurrency/pacing.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { sendProblem } from '../http/problems.ts';
import { Tenants } from '../tenants/tenants.ts';

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

/** One line at most in this time, in ms: whoever asks again and again must not fill the log. */
const QUIET_MS = 60_000;

/** Longest part of an origin that is repeated. */
const SHOWN = 200;

/**
 * Which pages of other origins may call (Fetch standard, CORS protocol).
 *
 * A preflight carries no token, so that nobody knows yet for which tenant the page will call: every origin that any
 * tenant allows passes. Once the caller is known, the answer can be read by pages of the caller's tenant only.
 */
@Injectable()
export class Cors {
  readonly #logger = new Logger(Cors.name);
  readonly #throttle = new LogThrottle(QUIET_MS);

  constructor(private readonly tenants: Tenants) {}

  /** Answers a preflight; true if the request was one. Behind what gives a request its id, which also a preflight gets. */
  answersPreflight(request: FastifyRequest, reply: FastifyReply): boolean {
    // Also without an origin: a cache must not give that answer to a page.
    void reply.header('vary', 'Origin');
    const { origin } = request.headers;
    if (origin === undefined) return false;
    const isPreflight = request.method === 'OPTIONS' && 'access-control-request-method' in request.headers;
    if (!this.tenants.allowsOriginSomewhere(origin)) {
      if (isPreflight) sendProblem(reply, this.#refusal(origin));
      return isPreflight;
    }
    void reply.headers({
      'access-control-allow-origin': origin,
      'access-control-allow-credentials': 'true',
      'access-control-expose-headers': EXPOSED,
    });
    if (isPreflight) void reply.headers(PREFLIGHT).status(204).send();
    return isPreflight;
  }

  /** Called as soon as the caller is known, before anything of the tenant stands in the answer. */
  confine({ headers: { origin } }: FastifyRequest, reply: FastifyReply, tenantId: TenantId): void {
    if (origin === undefined || this.tenants.allowsOrigin(tenantId, origin)) return;
    reply.removeHeader('access-control-allow-origin').removeHeader('access-control-allow-credentials');
  }

  /** The page learns nothing but that it failed; this is for whoever looks for the reason. */
  #refusal(origin: string): Problem {
    const shown = origin.slice(0, SHOWN);
    this.#throttle.note((refused) =>
      this.#logger.warn({
        msg: 'a page may not call: its origin is neither in CORS_ORIGINS nor in corsOrigins of any tenant',
        origin: shown,
        refused,
      }),
    );
    return new Problem(
      'origin_refused',
      `Pages of ${shown} may not call: neither CORS_ORIGINS nor corsOrigins of a tenant names this origin.`,
    );
  }
}
