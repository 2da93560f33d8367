import { Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Limits } from '../core/limits.ts';
import { Tenants } from '../tenants/tenants.ts';
import { Quota, type Usage } from './account.ts';
import { UsageStore } from './accounts.store.ts';

/** Most accounts that are kept; one that is met again after that is read again. */
const MOST_ACCOUNTS = 20_000;

/** A tenant without room is looked up again after this long, in ms: retention may have made some. */
const ROOM_MS = 1_000;

/** What a caller may be told of the account of its tenant. */
export interface QuotaState {
  readonly limits: Limits;
  /** Notifications that could be published now; below zero in debt. */
  readonly left: number;
  /** ms until one could be. */
  readonly wait: number;
}

/** The accounts of the tenants that publish through this node. */
@Injectable()
export class Quotas {
  readonly #accounts = new LRUCache<TenantId, Quota>({ max: MOST_ACCOUNTS });
  readonly #readings = new Map<TenantId, Promise<Quota>>();
  /** When tenants without room were looked up. */
  readonly #lookedUp = new LRUCache<TenantId, true>({ max: MOST_ACCOUNTS, ttl: ROOM_MS });
  readonly #unsure = new WeakSet<Quota>();

  constructor(
    private readonly store: UsageStore,
    private readonly tenants: Tenants,
  ) {}

  /**
   * The account of a tenant. The database is asked when this node meets the tenant, when it cannot know what became of an
   * append, and at most once a second when there is no room for `bytes` more; else every append tells.
   *
   * @throws the database's error
   */
  async open(tenantId: TenantId, bytes: number): Promise<Quota> {
    const account = this.#accounts.get(tenantId);
    if (account === undefined || this.#unsure.has(account)) return await this.#read(tenantId);
    if (account.hasRoom(bytes, this.tenants.limits(tenantId)) || this.#lookedUp.has(tenantId)) return account;
    this.#lookedUp.set(tenantId, true);
    return await this.#read(tenantId);
  }

  /** Why the tenant may not publish so much now; undefined: it may. */
  refusal(tenantId: TenantId, account: Quota, notifications: number, bytes: number): Problem | undefined {
    const limits = this.tenants.limits(tenantId);
    if (!account.hasRoom(bytes, limits)) {
      return new Problem(
        'storage_full',
        `The tenant may keep ${limits.storedBytes} bytes of data, and there is no room for these.`,
      );
    }
    const wait = account.waitFor(notifications, limits, performance.now());
    if (wait === 0) return undefined;
    return new Problem(
      'rate_limited',
      `The tenant may publish ${limits.notificationsPerSecond} notifications per second, and ${limits.burst} at once.`,
      { retryAfter: Math.ceil(wait / 1_000) },
    );
  }

  /** Undefined: this node does not know the account. */
  stateOf(tenantId: TenantId): QuotaState | undefined {
    const account = this.#accounts.get(tenantId);
    if (account === undefined) return undefined;
    const limits = this.tenants.limits(tenantId);
    const now = performance.now();
    return { limits, left: account.left(limits, now), wait: account.waitFor(1, limits, now) };
  }

  /** What the tenant pays, per second, by which the database charges it. */
  rateOf(tenantId: TenantId): number {
    return this.tenants.limits(tenantId).notificationsPerSecond;
  }

  /** What an append said. */
  learn(tenantId: TenantId, balance: Usage): void {
    const account = this.#accounts.get(tenantId);
    const now = performance.now();
    if (account === undefined) this.#accounts.set(tenantId, new Quota(balance, now));
    else {
      account.learn(balance, now);
      this.#unsure.delete(account);
    }
  }

  /** An append of the tenant has charged the account or not; nobody said. */
  doubt(tenantId: TenantId): void {
    const account = this.#accounts.get(tenantId);
    if (account !== undefined) this.#unsure.add(account);
  }

  /** Who asks while another does waits for the same answer. */
  async #read(tenantId: TenantId): Promise<Quota> {
    const reading =
      this.#readings.get(tenantId) ?? this.#readNow(tenantId).finally(() => this.#readings.delete(tenantId));
    this.#readings.set(tenantId, reading);
    return await reading;
  }

  async #readNow(tenantId: TenantId): Promise<Quota> {
    const known = this.#accounts.get(tenantId);
    const learned = known?.learned;
    const { age, ...balance } = await this.store.read(tenantId);
    const at = performance.now() - age;
    const account = this.#accounts.get(tenantId) ?? new Quota(balance, at);
    // What an append said meanwhile is newer.
    if (account === known && account.learned === learned) account.learn(balance, at);
    this.#unsure.delete(account);
    this.#accounts.set(tenantId, account);
    return account;
  }
}
