import { randomUUIDv7 } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { HistoryPool } from '../postgres/pools.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Action, AuditEntry, AuditRecord } from './audit.ts';
import { type Statement } from '../postgres/pool.ts';

export interface AuditFilters {
  readonly action: Action | undefined;
  /** ms since 1970, inclusive. */
  readonly since: number | undefined;
  /** ms since 1970, exclusive. */
  readonly until: number | undefined;
}

const RECORD: Statement = {
  name: 'record_act',
  text: `
insert into audit_log (tenant_id, audit_id, actor_tenant, actor_subject, actor_issuer, remote_address, request_id, action, target, before, after)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
};

/* Times are compared as they are shown, in milliseconds. */
const PAGE: Statement = {
  name: 'page_acts',
  text: `
select audit_id, at, actor_tenant, actor_subject, actor_issuer, remote_address, request_id, action, target, before, after
from audit_log
where tenant_id = $1 and audit_id < $2 and ($3::text is null or action = $3)
  and date_trunc('milliseconds', at) >= to_timestamp($4::float8 / 1000)
  and date_trunc('milliseconds', at) < to_timestamp($5::float8 / 1000)
order by audit_id desc limit $6`,
};

interface Row extends Record<string, unknown> {
  readonly audit_id: string;
  readonly at: Date;
  readonly actor_tenant: TenantId | null;
  readonly actor_subject: string;
  readonly actor_issuer: string | null;
  readonly remote_address: string | null;
  readonly request_id: string | null;
  readonly action: Action;
  readonly target: string;
  readonly before: string | null;
  readonly after: string | null;
}

const BEYOND_ALL = 'ffffffff-ffff-ffff-ffff-ffffffffffff';

/** In the transaction of `run`, that of the act: what is undone is not recorded, and what is done always is. */
export async function recordAction(run: RunOfTenant, entry: AuditEntry): Promise<void> {
  const { tenantId, actor, remoteAddress, requestId, action, target, before, after } = entry;
  await run(tenantId, RECORD, [
    randomUUIDv7(),
    actor.tenantId,
    actor.subject,
    actor.issuer,
    remoteAddress,
    requestId,
    action,
    target,
    textOf(before),
    textOf(after),
  ]);
}

/** What was recorded. The database itself refuses to change or remove a row. */
@Injectable()
export class AuditStore {
  constructor(private readonly pool: HistoryPool) {}

  /** The acts that concern a tenant, newest first: those before the id `before`. */
  async page(
    tenantId: TenantId,
    { action, since, until }: AuditFilters,
    before: string | undefined,
    limit: number,
  ): Promise<AuditRecord[]> {
    const rows = await this.pool.rows<Row>(tenantId, PAGE, [
      before ?? BEYOND_ALL,
      action ?? null,
      since ?? -Infinity,
      until ?? Infinity,
      limit,
    ]);
    return rows.map((row) => recordOf(tenantId, row));
  }
}

const textOf = (value: unknown): string | null => (value === null ? null : JSON.stringify(value));

function valueOf(text: string | null): unknown {
  if (text === null) return null;
  const value: unknown = JSON.parse(text);
  return value;
}

const recordOf = (tenantId: TenantId, row: Row): AuditRecord => ({
  tenantId,
  id: row.audit_id,
  at: row.at,
  actor: { tenantId: row.actor_tenant, subject: row.actor_subject, issuer: row.actor_issuer },
  remoteAddress: row.remote_address,
  requestId: row.request_id,
  action: row.action,
  target: row.target,
  before: valueOf(row.before),
  after: valueOf(row.after),
});
