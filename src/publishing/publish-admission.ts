import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Logger } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { LRUCache } from 'lru-cache';
import { LogThrottle } from '../concurrency/pacing.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { IdempotencyKey } from '../log/append.store.ts';
import { IdempotencyRecords } from '../log/idempotency.ts';
import { Quotas, type QuotaState } from '../log/quota.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { Tenants } from '../tenants/tenants.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Charged to the quota of the tenant. */
    publishes?: boolean;
  }
}

/** One line at most in this time, in ms: a flood of publishes must not become one of the log. */
const QUIET_MS = 1_000;

/** Tenants that a line names. */
const MOST_NAMED = 5;

/** Time between two rejections of a tenant on this node, in ms: 200 a second. */
const BETWEEN_MS = 5;

/** Most tenants that are paced at the same time. */
const MOST_PACED = 20_000;

/** Nobody waits longer than this for a rejection, in ms. */
const HELD_MS = 2_000;

/** Logs that the limits of tenants refuse publishes, and paces every answer of 4xx to a publisher. */
@Injectable()
export class RejectionThrottle {
  readonly #logger = new Logger(RejectionThrottle.name);
  readonly #lines = new LogThrottle(QUIET_MS);
  readonly #tenants = new Set<TenantId>();
  /** When the next rejection of a tenant may be answered. */
  readonly #next = new LRUCache<TenantId, number>({ max: MOST_PACED });

  note(tenantId: TenantId): void {
    if (this.#tenants.size < MOST_NAMED) this.#tenants.add(tenantId);
    this.#lines.note((refused) => {
      this.#logger.warn({
        msg: 'publishes are refused by the limits of their tenants',
        refused,
        tenants: [...this.#tenants],
      });
      this.#tenants.clear();
    });
  }

  /**
   * Resolves when it is time to answer a rejection. Clients that ask again at once, whatever `Retry-After` says, cost more than
   * those that publish, since they are answered sooner: with 64 of them the publishes of everybody else took five times
   * as long. So rejections of a tenant leave one after the other, and who waits asks nothing meanwhile.
   */
  async turn(tenantId: TenantId): Promise<void> {
    const now = performance.now();
    const at = Math.min(Math.max(now, this.#next.get(tenantId) ?? 0), now + HELD_MS);
    this.#next.set(tenantId, at + BETWEEN_MS);
    if (at > now) await sleep(at - now);
  }
}

/**
 * What stands between a flood of publishes and the other tenants. A request is held against the quota of its tenant before its
 * body is read, and once its notifications are counted; what it takes of it is reserved by Ingest. Whatever is refused is answered
 * in its turn, and every answer says how much of the quota is left.
 *
 * Only callers who may publish meet it. To others the guard gives its reasons, and the traffic of the tenant is none of
 * their business.
 */
@Injectable()
export class PublishAdmission {
  constructor(
    private readonly quotas: Quotas,
    private readonly records: IdempotencyRecords,
    private readonly rejections: RejectionThrottle,
    private readonly tenants: Tenants,
    private readonly metrics: Metrics,
  ) {}

  /**
   * A request with an Idempotency-Key passes: it may have been answered already, and its body says whether it is the same.
   * Nobody has counted yet what the request asks for: a publisher who tries again may learn that it has to wait longer.
   *
   * @throws Problem `rate_limited`, `storage_full`
   */
  async beforeBody(request: FastifyRequest): Promise<void> {
    const tenantId = publisherOf(request);
    if (tenantId === undefined || request.headers['idempotency-key'] !== undefined) return;
    // The database is away, as whoever appends will say.
    const refusal = await this.quotas.refusal(tenantId, 1, 1).catch(() => undefined);
    if (refusal === undefined) return;
    this.failed(tenantId, refusal);
    throw refusal;
  }

  /**
   * A body that will not be let in is not worth checking, unless its key was used: then its answer is known.
   *
   * @param asked how many notifications it asks for
   * @throws Problem `rate_limited`, `storage_full`, `idempotency_mismatch`; the database's error
   */
  async afterCounting(tenantId: TenantId, asked: number, key: IdempotencyKey | undefined): Promise<void> {
    // What no waiting would let pass is a fault of the body, and told as such.
    const passable = asked <= this.tenants.limits(tenantId).burst ? Math.max(1, asked) : 1;
    const refusal = await this.quotas.refusal(tenantId, passable, 1);
    if (refusal === undefined) return;
    const known = key && (await this.records.storedOrUnderWay(tenantId, key));
    if (known === undefined) throw refusal;
  }

  /** Counts a publish that was not stored. */
  failed(tenantId: TenantId, error: unknown): void {
    if (error instanceof Problem && (error.code === 'rate_limited' || error.code === 'storage_full')) {
      this.metrics.publishRequests.inc({ result: 'limited' });
      this.rejections.note(tenantId);
      return;
    }
    const result = error instanceof Problem && error.status < 500 ? 'refused' : 'unavailable';
    this.metrics.publishRequests.inc({ result });
  }

  /** Has a refusal wait for its turn, and tells what is left of the quota. */
  async beforeAnswer(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const tenantId = publisherOf(request);
    if (tenantId === undefined) return;
    if (reply.statusCode >= 400 && reply.statusCode < 500) await this.rejections.turn(tenantId);
    const state = await this.quotas.state(tenantId).catch(() => undefined);
    if (state === undefined) return;
    const retryAfter = reply.getHeader('retry-after');
    reply.headers(rateLimitFields(state, retryAfter === undefined ? undefined : Number(retryAfter)));
  }
}

/** The tenant of a caller who may publish, on a route that does. */
function publisherOf({ routeOptions, user }: FastifyRequest): TenantId | undefined {
  if (routeOptions.config.publishes !== true) return undefined;
  return user?.scopes.has('notifications:publish') === true ? user.tenantId : undefined;
}

/** The name of the policy. Its unit is the notification: a request costs as many as it makes. */
const POLICY = '"notifications"';

/**
 * What a publisher is told of the quota of its tenant: draft-ietf-httpapi-ratelimit-headers-11 (May 2026), lists of
 * Structured Fields (RFC 9651). The policy is the burst and the seconds in which it comes back (§3). The limit (§4) is what is
 * left, and the seconds in which the rate brings so much: whoever spreads it over them keeps to the rate (§6, §8.5).
 *
 * @param retryAfter of the same answer, in seconds: it may not lie before the end of that window (§6)
 */
export function rateLimitFields(
  { limits: { notificationsPerSecond: rate, burst }, left, wait }: QuotaState,
  retryAfter = Infinity,
): { 'ratelimit-policy': string; ratelimit: string } {
  const remaining = Math.max(0, Math.floor(left));
  const seconds = remaining > 0 ? remaining / rate : wait / 1_000;
  const window = Math.max(1, Math.min(Math.ceil(seconds), retryAfter));
  return {
    'ratelimit-policy': `${POLICY};q=${burst};w=${Math.ceil(burst / rate)}`,
    ratelimit: `${POLICY};r=${remaining};t=${window}`,
  };
}
