import { Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { SingleFlight } from '../concurrency/pacing.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Limits } from '../core/limits.ts';
import { Tenants } from '../tenants/tenants.ts';
import { AppendStore, type Usage } from './append.store.ts';
/** Most quotas that are kept; one that is met again after that is read again. */
const MOST_QUOTAS = 20_000;

/** A tenant without room is looked up again after this long, in ms: retention may have made some. */
const ROOM_MS = 1_000;

/** What a caller may be told of the quota of its tenant. */
export interface QuotaState {
  readonly limits: Limits;
  /** Notifications that could be published now; below zero in debt. */
  readonly left: number;
  /** ms until one could be. */
  readonly wait: number;
}

/** The quotas of the tenants that publish through this node. */
@Injectable()
export class Quotas {
  readonly #quotas = new LRUCache<TenantId, Quota>({ max: MOST_QUOTAS });
  readonly #readings = new SingleFlight<TenantId, Quota>();
  /** When tenants without room were looked up. */
  readonly #lookedUp = new LRUCache<TenantId, true>({ max: MOST_QUOTAS, ttl: ROOM_MS });
  readonly #unsure = new WeakSet<Quota>();

  constructor(
    private readonly store: AppendStore,
    private readonly tenants: Tenants,
  ) {}

  /**
   * Why the tenant may not publish so much now; undefined: it may.
   * @throws the database's error
   */
  async refusal(tenantId: TenantId, notifications: number, bytes: number): Promise<Problem | undefined> {
    return this.#refusalBy(await this.#open(tenantId, bytes), tenantId, notifications, bytes);
  }

  /**
   * Takes so much from what the tenant may publish, until it is given back, which the caller does when it is appended or given
   * up. Or the reason why it may not.
   * @throws the database's error
   */
  async reserve(tenantId: TenantId, notifications: number, bytes: number): Promise<Reservation | Problem> {
    const quota = await this.#open(tenantId, bytes);
    return this.#refusalBy(quota, tenantId, notifications, bytes) ?? quota.reserve(notifications, bytes);
  }

  /**
   * How much is left.
   * @throws the database's error
   */
  async state(tenantId: TenantId): Promise<QuotaState> {
    const quota = await this.#open(tenantId, 1);
    const limits = this.tenants.limits(tenantId);
    const now = performance.now();
    return { limits, left: quota.left(limits, now), wait: quota.waitFor(1, limits, now) };
  }

  /** What the tenant pays, per second, by which the database charges it. */
  rateOf(tenantId: TenantId): number {
    return this.tenants.limits(tenantId).notificationsPerSecond;
  }

  /** What an append said. */
  learn(tenantId: TenantId, usage: Usage): void {
    const quota = this.#quotas.get(tenantId);
    const now = performance.now();
    if (quota === undefined) this.#quotas.set(tenantId, new Quota(usage, now));
    else {
      quota.learn(usage, now);
      this.#unsure.delete(quota);
    }
  }

  /** An append of the tenant has charged the quota or not; nobody said. */
  doubt(tenantId: TenantId): void {
    const quota = this.#quotas.get(tenantId);
    if (quota !== undefined) this.#unsure.add(quota);
  }

  /**
   * The quota of a tenant. The database is asked when this node meets the tenant, when it cannot know what became of an
   * append, and at most once a second when there is no room for `bytes` more; else every append tells.
   */
  async #open(tenantId: TenantId, bytes: number): Promise<Quota> {
    const quota = this.#quotas.get(tenantId);
    if (quota === undefined || this.#unsure.has(quota)) return await this.#read(tenantId);
    if (quota.hasRoom(bytes, this.tenants.limits(tenantId)) || this.#lookedUp.has(tenantId)) return quota;
    this.#lookedUp.set(tenantId, true);
    return await this.#read(tenantId);
  }

  #refusalBy(quota: Quota, tenantId: TenantId, notifications: number, bytes: number): Problem | undefined {
    const limits = this.tenants.limits(tenantId);
    if (!quota.hasRoom(bytes, limits)) {
      return new Problem(
        'storage_full',
        `The tenant may keep ${limits.storedBytes} bytes of data, and there is no room for these.`,
      );
    }
    const wait = quota.waitFor(notifications, limits, performance.now());
    if (wait === 0) return undefined;
    return new Problem(
      'rate_limited',
      `The tenant may publish ${limits.notificationsPerSecond} notifications per second, and ${limits.burst} at once.`,
      { retryAfter: Math.ceil(wait / 1_000) },
    );
  }

  /** Who asks while another does waits for the same answer. */
  async #read(tenantId: TenantId): Promise<Quota> {
    return await this.#readings.run(tenantId, () => this.#readNow(tenantId));
  }

  async #readNow(tenantId: TenantId): Promise<Quota> {
    const known = this.#quotas.get(tenantId);
    const learned = known?.learned;
    const { age, ...usage } = await this.store.usage(tenantId);
    const at = performance.now() - age;
    const quota = this.#quotas.get(tenantId) ?? new Quota(usage, at);
    // What an append said meanwhile is newer.
    if (quota === known && quota.learned === learned) quota.learn(usage, at);
    this.#unsure.delete(quota);
    this.#quotas.set(tenantId, quota);
    return quota;
  }
}

/** A tenant's rate: what it may publish in the long run, and at once. */
export type Rate = Pick<Limits, 'notificationsPerSecond' | 'burst'>;

/** Gives back what was reserved; once, however often it is called. */
export type Reservation = () => void;

/**
 * What this node knows of a tenant's quota: what the database said last, and what was admitted here since and is not
 * appended yet. Other nodes charge the same quota, so that a node may know too little of what was spent; it hears
 * with its next append, and what was too much is paid off before anything more is admitted. See docs/adr/0006.
 *
 * Times are of a clock of this process that never goes back, in ms.
 */
export class Quota {
  #usage: Usage;
  #at: number;
  #held = 0;
  #heldBytes = 0;
  #learned = 0;

  /** `at`: when the usage was so, or later. */
  constructor(usage: Usage, at: number) {
    this.#usage = usage;
    this.#at = at;
  }

  /** How often the database was heard: a question that was asked before another answer came is answered too late. */
  get learned(): number {
    return this.#learned;
  }

  /** An answer of the database takes the place of what was known. */
  learn(usage: Usage, at: number): void {
    this.#usage = usage;
    this.#at = at;
    this.#learned += 1;
  }

  /** How many notifications can be admitted; below zero: how many have to be paid off first. */
  left({ notificationsPerSecond, burst }: Rate, now: number): number {
    const paid = (notificationsPerSecond * Math.max(0, now - this.#at)) / 1000;
    return burst - Math.max(0, this.#usage.spent - paid) - this.#held;
  }

  /** ms until `n` notifications can be admitted, if no others are; 0: now. */
  waitFor(n: number, rate: Rate, now: number): number {
    return (Math.max(0, n - this.left(rate, now)) / rate.notificationsPerSecond) * 1000;
  }

  /** Whether so many bytes more can be kept. */
  hasRoom(bytes: number, { storedBytes }: Pick<Limits, 'storedBytes'>): boolean {
    return this.#usage.storedBytes + this.#heldBytes + bytes <= storedBytes;
  }

  /** Admits notifications: they count until they are released, which happens once, however often it is asked for. */
  reserve(n: number, bytes: number): Reservation {
    this.#held += n;
    this.#heldBytes += bytes;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#held -= n;
      this.#heldBytes -= bytes;
    };
  }
}
