import { Injectable } from '@nestjs/common';
import { databaseUnavailable, isUnavailable } from '../postgres/errors.ts';
import { Problem } from '../core/errors.ts';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import type { TenantId } from '../core/identifiers.ts';
import { AppendStore, type IdempotencyKey, type Remembered } from './append.store.ts';
import type { Stored } from '../core/notification.ts';

/** Keys of one tenant that one statement looks up. */
const AT_ONCE = 200;

/** Most keys of one tenant that wait to be looked up, each with the body of its request. */
const MOST_WAITING = 1_000;

/**
 * What Idempotency-Keys were answered the first time. A key is answered before limits, so a tenant over its limits makes
 * one look-up for each request that it sends; they share statements, of which one is under way per tenant.
 */
@Injectable()
export class IdempotencyRecords {
  readonly #tenants = new KeyedBatcher<TenantId, IdempotencyKey, Remembered | null>(
    (tenantId, keys) => this.store.recall(tenantId, keys),
    { atOnce: AT_ONCE },
  );

  readonly #underWay = new Map<string, { fingerprint: Buffer; stored: Promise<Stored> }>();

  constructor(private readonly store: AppendStore) {}

  /** The answer to a request with this key that is under way on this node. Throws at once when its body is another. */
  underWay(tenantId: TenantId, key: IdempotencyKey): Promise<Stored> | undefined {
    const duplicate = this.#underWay.get(nameOf(tenantId, key));
    if (duplicate === undefined) return undefined;
    requireSame(duplicate.fingerprint, key.fingerprint);
    return duplicate.stored.then((stored) => ({ ...stored, replayed: true }));
  }

  /** Lets duplicates wait for `stored` until it is decided. */
  async during(tenantId: TenantId, key: IdempotencyKey, stored: Promise<Stored>): Promise<Stored> {
    const name = nameOf(tenantId, key);
    this.#underWay.set(name, { fingerprint: key.fingerprint, stored });
    try {
      return await stored;
    } finally {
      this.#underWay.delete(name);
    }
  }

  /**
   * The first answer, from the database; undefined: the key was not used.
   * @throws Problem `idempotency_mismatch` (422), `overloaded` or `database_unavailable` (503)
   */
  async stored(tenantId: TenantId, key: IdempotencyKey): Promise<Stored | undefined> {
    if (this.#tenants.pending(tenantId) >= MOST_WAITING) {
      throw new Problem('overloaded', 'Too many Idempotency-Keys wait to be looked up on this node.', {
        retryAfter: 1,
      });
    }
    try {
      const remembered = await this.#tenants.request(tenantId, key);
      if (remembered === null) return undefined;
      requireSame(remembered.fingerprint, key.fingerprint);
      return { first: remembered.first, ids: remembered.ids, replayed: true };
    } catch (error) {
      throw isUnavailable(error) ? databaseUnavailable(error) : error;
    }
  }

  /** The same, also of a request that is under way. For what a limit, an expiry or a shutdown would refuse by now. */
  async storedOrUnderWay(tenantId: TenantId, key: IdempotencyKey): Promise<Stored | undefined> {
    return (await this.underWay(tenantId, key)) ?? (await this.stored(tenantId, key));
  }
}

const nameOf = (tenantId: TenantId, { publisher, key }: IdempotencyKey): string =>
  JSON.stringify([tenantId, publisher, key]);

/** @throws Problem `idempotency_mismatch` */
function requireSame(first: Buffer, now: Buffer): void {
  if (first.equals(now)) return;
  throw new Problem(
    'idempotency_mismatch',
    'This Idempotency-Key was used with another body or on another route.',
  );
}
