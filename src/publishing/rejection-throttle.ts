import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Logger } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import type { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { Metrics } from '../telemetry/metrics.ts';

/** One line at most in this time, in ms: a flood of publishes must not become one of the log. */
const QUIET_MS = 1_000;

/** Tenants that a line names. */
const MOST_NAMED = 5;

/** Time between two refusals of a tenant on this node, in ms: 200 a second. */
const BETWEEN_MS = 5;

/** Most tenants that are paced at the same time. */
const MOST_PACED = 20_000;

/** Nobody waits longer than this for a refusal, in ms. */
const HELD_MS = 2_000;

/** Counts what the limits of tenants refuse, says that they do, and takes its time. */
@Injectable()
export class RejectionThrottle {
  readonly #logger = new Logger(RejectionThrottle.name);
  readonly #tenants = new Set<TenantId>();
  #refused = 0;
  #said = -Infinity;
  /** When the next refusal of a tenant may be answered. */
  readonly #next = new LRUCache<TenantId, number>({ max: MOST_PACED });

  constructor(private readonly metrics: Metrics) {}

  note(tenantId: TenantId): void {
    this.metrics.publishRequests.inc({ result: 'limited' });
    this.#refused += 1;
    if (this.#tenants.size < MOST_NAMED) this.#tenants.add(tenantId);
    const now = performance.now();
    if (now - this.#said < QUIET_MS) return;
    this.#logger.warn({
      msg: 'publishes are refused by the limits of their tenants',
      refused: this.#refused,
      tenants: [...this.#tenants],
    });
    this.#said = now;
    this.#refused = 0;
    this.#tenants.clear();
  }

  /**
   * Resolves when it is time to answer a refusal. Clients that ask again at once, whatever `Retry-After` says, cost more than
   * those that publish, since they are answered sooner: with 64 of them the publishes of everybody else took five times
   * as long. So refusals of a tenant leave one after the other, and who waits asks nothing meanwhile.
   */
  async turn(tenantId: TenantId): Promise<void> {
    const now = performance.now();
    const at = Math.min(Math.max(now, this.#next.get(tenantId) ?? 0), now + HELD_MS);
    this.#next.set(tenantId, at + BETWEEN_MS);
    if (at > now) await sleep(at - now);
  }
}

/** Whether it is a limit of the tenant that refuses, and no fault of the request. */
export const isOfLimits = ({ code }: Problem): boolean => code === 'rate_limited' || code === 'storage_full';
