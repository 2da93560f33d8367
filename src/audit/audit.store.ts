import { randomUUIDv7 } from 'node:crypto';
import { Injectable, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Column, Entity, PrimaryColumn, type EntityManager } from 'typeorm';
import { CROSS_TENANT } from '../postgres/entity-transactions.ts';
import type { Statement } from '../postgres/pool.ts';
import { HistoryPool } from '../postgres/pools.ts';
import type { TenantId } from '../core/identifiers.ts';

export const ACTIONS = [
  'tenant.create',
  'tenant.update',
  'tenant.delete',
  'tenant.deleted',
  'issuer.create',
  'issuer.update',
  'issuer.delete',
  'revocation.create',
  'user.disconnect',
  'user.erase',
  'user.erased',
  'connection.close',
] as const;
export type Action = (typeof ACTIONS)[number];

/** Who did it: a service with a token, or a command on the machine of the installation. */
interface Actor {
  /** Null: a command, which has no token. */
  readonly tenantId: TenantId | null;
  /** `sub` of the token; `cli` for a command. */
  readonly subject: string;
  /** `iss` of the token. */
  readonly issuer: string | null;
}

/** What a command is recorded as. */
export const COMMAND: Actor = { tenantId: null, subject: 'cli', issuer: null };

/** One action of an administrator. */
export interface AuditEntry {
  /** The tenant that the action concerns; for what concerns none, that of the actor. */
  readonly tenantId: TenantId;
  readonly actor: Actor;
  readonly remoteAddress: string | null;
  readonly requestId: string | null;
  readonly action: Action;
  /** The id of the tenant, issuer, revocation, user or connection; of a user who is erased a hash (privacy/erasure.ts). */
  readonly target: string;
  /** What the API shows of the target, which is never a secret; null: there was none. */
  readonly before: unknown;
  /** The same after the action; null: there is none any more. */
  readonly after: unknown;
}

/** An entry as it was stored. */
export interface AuditRecord extends AuditEntry {
  /** UUIDv7. */
  readonly id: string;
  /** By the database's clock. */
  readonly at: Date;
}

export interface AuditFilters {
  readonly action: Action | undefined;
  /** ms since 1970, inclusive. */
  readonly since: number | undefined;
  /** ms since 1970, exclusive. */
  readonly until: number | undefined;
}

/** A row of the audit log. */
@Entity('audit_log')
export class AuditEntity {
  @PrimaryColumn('text', { name: 'tenant_id' })
  tenantId!: TenantId;

  @PrimaryColumn('uuid', { name: 'audit_id' })
  id!: string;

  @Column('text', { name: 'actor_tenant', nullable: true })
  actorTenant!: TenantId | null;

  @Column('text', { name: 'actor_subject' })
  actorSubject!: string;

  @Column('text', { name: 'actor_issuer', nullable: true })
  actorIssuer!: string | null;

  @Column('text', { name: 'remote_address', nullable: true })
  remoteAddress!: string | null;

  @Column('text', { name: 'request_id', nullable: true })
  requestId!: string | null;

  @Column('text')
  action!: Action;

  @Column('text')
  target!: string;

  /** JSON, as `after` is. */
  @Column('text', { nullable: true })
  before!: string | null;

  @Column('text', { nullable: true })
  after!: string | null;
}

/* Times are compared as they are shown, in milliseconds. */
const PAGE: Statement = {
  name: 'page_audit_log',
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

/** In the transaction of the action: what is undone is not recorded, and what is done always is. */
export async function recordAction(entities: EntityManager, entry: AuditEntry): Promise<void> {
  const { tenantId, actor, remoteAddress, requestId, action, target, before, after } = entry;
  await entities.insert(AuditEntity, {
    tenantId,
    id: randomUUIDv7(),
    actorTenant: actor.tenantId,
    actorSubject: actor.subject,
    actorIssuer: actor.issuer,
    remoteAddress,
    requestId,
    action,
    target,
    before: textOf(before),
    after: textOf(after),
  });
}

/** What was recorded. The database itself refuses to change or remove a row. */
@Injectable()
export class AuditStore {
  constructor(private readonly pool: HistoryPool) {}

  /** The actions that concern a tenant, newest first: those before the id `before`. */
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

/** The record of what administrators do. Rows are written with both logins: together with a tenant, and with an issuer. */
@Module({
  imports: [TypeOrmModule.forFeature([AuditEntity]), TypeOrmModule.forFeature([AuditEntity], CROSS_TENANT)],
  providers: [AuditStore],
  exports: [AuditStore],
})
export class AuditModule {}
