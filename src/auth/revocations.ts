import { randomUUID } from 'node:crypto';
import { Injectable, Module } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { ChangeFeed, ChangeFeedModule, type ChangeSource, NOT_IN_SNAPSHOT } from '../cluster/change-feed.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import { ChangeFeedPool, HistoryPool } from '../postgres/pools.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import type { Statement } from '../postgres/pool.ts';

/** What is revoked: one token by its `jti`, or all tokens of a user (or service) that were issued before an instant. */
type Revoked =
  | { readonly kind: 'token'; readonly jti: string }
  | { readonly kind: 'user'; readonly user: UserId; readonly issuedBefore: Date };

export interface RevocationRecord {
  readonly id: string;
  readonly revoked: Revoked;
  readonly createdAt: Date;
  /** When the last token that it concerns has ended. */
  readonly expiresAt: Date;
}

/** A revocation as every node keeps it; times in ms since 1970. */
type InForce = {
  readonly tenantId: TenantId;
  readonly subject: string;
  readonly expiresAt: number;
} & ({ readonly kind: 'token' } | { readonly kind: 'user'; readonly issuedBefore: number });

/** What is asked for: absent times are the database's now, and the longest life of a token. */
export type RevocationRequest =
  | { readonly kind: 'token'; readonly jti: string; readonly expiresAt: Date | undefined }
  | { readonly kind: 'user'; readonly user: UserId; readonly issuedBefore: Date | undefined };

/** Where a listing goes on: `createdAt` in microseconds as the database has it, and the id. */
type RevocationPlace = readonly [createdAt: string, id: string];

/*
 * No row: the instant lies ahead, or the token has ended already, by the database's clock. Or the tenant is gone. An end that
 * is told is kept, however late: a token without iat may come into its longest life years from now.
 *
 * It says all that was revoked before of the same token or user, too, and takes the place of that: there are no more rows than
 * tokens and users, whatever is asked in which order. (Two at once do not see each other; the next one takes the place of
 * both.) Nodes need not hear of what went: they keep the most of all that they have read.
 */
const INSERT: Statement = {
  name: 'revocation_insert',
  text: `
with known as (
  select max(issued_before) as issued_before, max(expires_at) as expires_at
  from revocations where tenant_id = $1 and kind = $3 and subject = $4
), made as (
  insert into revocations (tenant_id, revocation_id, kind, subject, issued_before, expires_at)
  select $1, $2, $3, $4,
    case when $3 = 'user' then greatest(coalesce($5::timestamptz, clock_timestamp()), known.issued_before) end,
    greatest(coalesce($6::timestamptz, clock_timestamp() + make_interval(days => $7)), known.expires_at)
  from known
  where coalesce($5::timestamptz <= clock_timestamp(), true) and coalesce($6::timestamptz > clock_timestamp(), true)
    and not exists (select from tenants where tenant_id = $1 and status in ('deleting', 'deleted'))
  returning revocation_id, kind, subject, issued_before, created_at, expires_at
), superseded as (
  delete from revocations where tenant_id = $1 and kind = $3 and subject = $4 and exists (select from made)
)
select * from made`,
};

const PAGE: Statement = {
  name: 'revocation_page',
  text: `
select revocation_id, kind, subject, issued_before, created_at, expires_at,
  to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as exact
from revocations
where tenant_id = $1 and expires_at > clock_timestamp() and (created_at, revocation_id) < ($2::timestamptz, $3::uuid)
order by created_at desc, revocation_id desc limit $4`,
};

const COLUMNS = `tenant_id, revocation_id, kind, subject, issued_before, expires_at`;

/* Of all tenants: a node does not know whose token comes next. A token is honoured for a minute past its end at most (JWT_CLOCK_TOLERANCE_SECONDS). */
const LOAD: Statement = {
  name: 'revocation_load',
  text: `
select ${COLUMNS} from revocations
where (tenant_id, revocation_id) > ($1, $2::uuid) and expires_at > clock_timestamp() - interval '2 minutes'
order by tenant_id, revocation_id limit $3`,
};

const SINCE: Statement = {
  name: 'revocation_since',
  text: `select ${COLUMNS} from revocations where ${NOT_IN_SNAPSHOT}`,
};

type RecordRow = Record<string, unknown> & {
  readonly revocation_id: string;
  readonly created_at: Date;
  readonly expires_at: Date;
} & (
    | { readonly kind: 'token'; readonly subject: string; readonly issued_before: null }
    | { readonly kind: 'user'; readonly subject: UserId; readonly issued_before: Date }
  );

type InForceRow = Record<string, unknown> & {
  readonly tenant_id: TenantId;
  readonly revocation_id: string;
  readonly subject: string;
  readonly expires_at: Date;
} & (
    | { readonly kind: 'token'; readonly issued_before: null }
    | { readonly kind: 'user'; readonly issued_before: Date }
  );

const LOAD_ROWS = 10_000;
const LAST_ID = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
const FIRST_ID = '00000000-0000-0000-0000-000000000000';

/** The SQL of revocations. */
@Injectable()
export class RevocationsStore {
  constructor(
    private readonly changes: ChangeFeedPool,
    private readonly history: HistoryPool,
  ) {}

  /**
   * In the transaction of `run`. `longestLifeDays`: how long a token may live at most. What is recorded holds for as long and
   * for as much as whatever was revoked before of the same subject. Undefined: `issuedBefore` lies in the future, or
   * `expiresAt` in the past.
   */
  async insert(
    run: RunOfTenant,
    tenantId: TenantId,
    request: RevocationRequest,
    longestLifeDays: number,
  ): Promise<RevocationRecord | undefined> {
    const user = request.kind === 'user';
    const [row] = await run<RecordRow>(tenantId, INSERT, [
      randomUUID(),
      request.kind,
      user ? request.user : request.jti,
      user ? request.issuedBefore?.toISOString() : null,
      user ? null : request.expiresAt?.toISOString(),
      longestLifeDays,
    ]);
    return row === undefined ? undefined : recordOf(row);
  }

  /** Those in force, newest first. */
  async page(
    tenantId: TenantId,
    after: RevocationPlace | undefined,
    limit: number,
  ): Promise<readonly (RevocationRecord & { readonly place: RevocationPlace })[]> {
    const [createdAt, id] = after ?? ['infinity', LAST_ID];
    const rows = await this.history.rows<RecordRow & { exact: string }>(tenantId, PAGE, [
      createdAt,
      id,
      limit,
    ]);
    return rows.map((row) => ({ ...recordOf(row), place: [row.exact, row.revocation_id] as const }));
  }

  /** All that are in force, of every tenant, in pages. */
  async *load(): AsyncGenerator<readonly InForce[]> {
    let after: readonly [string, string] = ['', FIRST_ID];
    for (;;) {
      const rows = await this.changes.rows<InForceRow>(LOAD, [...after, LOAD_ROWS]);
      yield rows.map(inForceOf);
      const last = rows.at(-1);
      if (last === undefined || rows.length < LOAD_ROWS) return;
      after = [last.tenant_id, last.revocation_id];
    }
  }

  /** Those that were not visible in the snapshot `snapshot`. */
  async since(snapshot: string): Promise<readonly InForce[]> {
    return (await this.changes.rows<InForceRow>(SINCE, [snapshot])).map(inForceOf);
  }
}

function recordOf(row: RecordRow): RevocationRecord {
  const revoked: Revoked =
    row.kind === 'token'
      ? { kind: 'token', jti: row.subject }
      : { kind: 'user', user: row.subject, issuedBefore: row.issued_before };
  return { id: row.revocation_id, revoked, createdAt: row.created_at, expiresAt: row.expires_at };
}

function inForceOf(row: InForceRow): InForce {
  const { tenant_id: tenantId, subject, expires_at: expiresAt } = row;
  const revocation = { tenantId, subject, expiresAt: expiresAt.getTime() };
  return row.kind === 'token'
    ? { ...revocation, kind: row.kind }
    : { ...revocation, kind: row.kind, issuedBefore: row.issued_before.getTime() };
}

/** What a revocation is held against. Times in ms since 1970. */
interface TokenIdentity {
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

@Module({
  imports: [ChangeFeedModule],
  providers: [Revocations, RevocationsStore],
  exports: [Revocations, RevocationsStore],
})
export class RevocationsModule {}
