import { Injectable } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { ChangeFeed, type ChangeSource } from '../cluster/change-feed.ts';
import type { TenantId } from '../core/identifiers.ts';
import { RevocationsStore, type InForce } from './revocations.store.ts';

/** What a revocation is held against. Times in ms since 1970. */
export interface TokenIdentity {
  readonly tenantId: TenantId;
  readonly subject: string;
  readonly tokenId: string | undefined;
  readonly issuedAt: number | undefined;
}

/**
 * Most tokens, and most users, of which a tenant can have revocations in force. Every node has them in memory, 30 MiB of a tenant
 * that has them all, and an operator can make up any number of names.
 */
export const MOST_REVOKED = 100_000;

/** Rows that have ended are thrown out this often, in ms. */
const PRUNE_MS = 10 * 60_000;

/** A token is honoured a little past its end (JWT_CLOCK_TOLERANCE_SECONDS, a minute at most); so is its revocation. */
const GRACE_MS = 2 * 60_000;

class OfTenant {
  /** End by `jti`. */
  readonly tokens = new Map<string, number>();
  readonly users = new Map<string, { issuedBefore: number; expiresAt: number }>();
}

/** Every revocation in force, of every tenant, in memory: each request and each open stream is held against it. */
@Injectable()
export class Revocations implements ChangeSource {
  readonly #changed = new Subject<TenantId>();
  #tenants = new Map<TenantId, OfTenant>();
  #prunedAt = Date.now();

  constructor(
    changes: ChangeFeed,
    private readonly store: RevocationsStore,
  ) {
    changes.register(this);
  }

  /** Tenants in which something was revoked. */
  get changed(): Observable<TenantId> {
    return this.#changed;
  }

  /** A token without `iat` counts as older than any revocation of its user. */
  revokes({ tenantId, subject, tokenId, issuedAt }: TokenIdentity): boolean {
    const tenant = this.#tenants.get(tenantId);
    if (tenant === undefined) return false;
    if (tokenId !== undefined && tenant.tokens.has(tokenId)) return true;
    const user = tenant.users.get(subject);
    return user !== undefined && (issuedAt === undefined || issuedAt < user.issuedBefore);
  }

  /** Whether one more can be revoked. One that is revoked already always can. Other nodes may add some that are not known here yet. */
  hasRoom(tenantId: TenantId, kind: 'token' | 'user', subject: string): boolean {
    const tenant = this.#tenants.get(tenantId);
    if (tenant === undefined) return true;
    const revoked = kind === 'token' ? tenant.tokens : tenant.users;
    return revoked.size < MOST_REVOKED || revoked.has(subject);
  }

  async load(): Promise<void> {
    const tenants = new Map<TenantId, OfTenant>();
    for await (const page of this.store.load()) for (const revocation of page) add(tenants, revocation);
    this.#tenants = tenants;
    for (const tenantId of tenants.keys()) this.#changed.next(tenantId);
  }

  async catchUp(since: string): Promise<void> {
    const revocations = await this.store.since(since);
    for (const revocation of revocations) add(this.#tenants, revocation);
    for (const tenantId of new Set(revocations.map((revocation) => revocation.tenantId)))
      this.#changed.next(tenantId);
    if (Date.now() - this.#prunedAt > PRUNE_MS) this.#prune(Date.now());
  }

  #prune(now: number): void {
    this.#prunedAt = now;
    for (const [tenantId, { tokens, users }] of this.#tenants) {
      for (const [jti, expiresAt] of tokens) if (expiresAt + GRACE_MS < now) tokens.delete(jti);
      for (const [user, { expiresAt }] of users) if (expiresAt + GRACE_MS < now) users.delete(user);
      if (tokens.size + users.size === 0) this.#tenants.delete(tenantId);
    }
  }
}

function add(tenants: Map<TenantId, OfTenant>, revocation: InForce): void {
  const { tenantId, subject, expiresAt } = revocation;
  let tenant = tenants.get(tenantId);
  if (tenant === undefined) {
    tenant = new OfTenant();
    tenants.set(tenantId, tenant);
  }
  if (revocation.kind === 'token') {
    tenant.tokens.set(subject, Math.max(expiresAt, tenant.tokens.get(subject) ?? 0));
    return;
  }
  const known = tenant.users.get(subject);
  tenant.users.set(subject, {
    issuedBefore: Math.max(revocation.issuedBefore, known?.issuedBefore ?? 0),
    expiresAt: Math.max(expiresAt, known?.expiresAt ?? 0),
  });
}
