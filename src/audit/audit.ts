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
export interface Actor {
  /** Null: a command, which has no token. */
  readonly tenantId: TenantId | null;
  /** `sub` of the token; `cli` for a command. */
  readonly subject: string;
  /** `iss` of the token. */
  readonly issuer: string | null;
}

/** What a command is recorded as. */
export const COMMAND: Actor = { tenantId: null, subject: 'cli', issuer: null };

/** One administrative act. */
export interface AuditEntry {
  /** The tenant that the act concerns; for what concerns none, that of the actor. */
  readonly tenantId: TenantId;
  readonly actor: Actor;
  readonly remoteAddress: string | null;
  readonly requestId: string | null;
  readonly action: Action;
  /** The id of the tenant, issuer, revocation, user or connection; of a user who is erased a hash (privacy/erasure.ts). */
  readonly target: string;
  /** What the API shows of the target, which is never a secret; null: there was none. */
  readonly before: unknown;
  /** The same after the act; null: there is none any more. */
  readonly after: unknown;
}

/** An entry as it was stored. */
export interface AuditRecord extends AuditEntry {
  /** UUIDv7. */
  readonly id: string;
  /** By the database's clock. */
  readonly at: Date;
}
