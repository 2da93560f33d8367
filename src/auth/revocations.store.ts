import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { NOT_IN_SNAPSHOT } from '../cluster/change-feed.store.ts';
import { ChangeFeedPool, HistoryPool } from '../postgres/pools.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import { type Statement } from '../postgres/pool.ts';

/** What is revoked: one token by its `jti`, or all tokens of a user (or service) that were issued before an instant. */
export type Revoked =
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
export type InForce = {
  readonly tenantId: TenantId;
  readonly subject: string;
  readonly expiresAt: number;
} & ({ readonly kind: 'token' } | { readonly kind: 'user'; readonly issuedBefore: number });

/** What is asked for: absent times are the database's now, and the longest life of a token. */
export type RevocationRequest =
  | { readonly kind: 'token'; readonly jti: string; readonly expiresAt: Date | undefined }
  | { readonly kind: 'user'; readonly user: UserId; readonly issuedBefore: Date | undefined };

/** Where a listing goes on: `createdAt` in microseconds as the database has it, and the id. */
export type RevocationPlace = readonly [createdAt: string, id: string];

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
