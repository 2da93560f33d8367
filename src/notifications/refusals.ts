import { Injectable, Logger } from '@nestjs/common';
import type { Problem } from '../errors.ts';
import type { TenantId } from '../identifiers.ts';
import { Metrics } from '../metrics/metrics.ts';

/** One line at most in this time, in ms: a flood of publishes must not become one of the log. */
const QUIET_MS = 1_000;

/** Tenants that a line names. */
const MOST_NAMED = 5;

/** Counts what the limits of tenants refuse, and says that they do. */
@Injectable()
export class Refusals {
  readonly #logger = new Logger(Refusals.name);
  readonly #tenants = new Set<TenantId>();
  #refused = 0;
  #said = -Infinity;

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
}

/** Whether it is a limit of the tenant that refuses, and no fault of the request. */
export const isOfLimits = ({ code }: Problem): boolean => code === 'rate_limited' || code === 'storage_full';
