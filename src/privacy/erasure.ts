import { createHash } from 'node:crypto';
import type { TenantId, UserId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';

/** That the data of a user, or of a whole tenant, is erased: as every node keeps it while its row is there. */
export interface Erasure {
  readonly tenantId: TenantId;
  readonly id: string;
  /** Empty: the whole tenant. */
  readonly digest: Buffer;
  /** Null for a tenant, and once it is done: then only the digest is left. */
  readonly user: UserId | null;
  /** The process that began it. */
  readonly worker: string;
  /** What was published up to here goes; null: it is not settled yet, and everything does. */
  readonly position: Position | null;
  /** What streams did that were let in up to then goes, in ms since 1970. Null as above. */
  readonly erasedAt: number | null;
  /** The rows are gone, and what nodes have in memory goes once more: up to the position, now that nothing can be read anew. */
  readonly emptied: boolean;
  readonly done: boolean;
}

/** How many rows of which kind are gone. */
export type Erased = Readonly<Record<string, number>>;

/** What callers see of the erasure of a user. */
export interface ErasureView {
  readonly id: string;
  /** `closing`: streams are ended, and what was under way is waited for. `erasing`: rows go. */
  readonly status: 'closing' | 'erasing' | 'done';
  readonly createdAt: Date;
  readonly doneAt: Date | null;
  readonly erased: Erased;
}

/** By which the row knows the user when it is done; src/postgres/erased.ts makes the same. A tenant's name has no colon. */
export const digestOf = (tenantId: TenantId, user: string): Buffer =>
  createHash('sha256').update(`${tenantId}:${user}`).digest();

export const WHOLE_TENANT = Buffer.alloc(0);

/** Whom it concerns. */
export function whoOf({ tenantId, digest, user }: Erasure): ((user: string) => boolean) | 'everybody' {
  if (digest.length === 0) return 'everybody';
  return user === null ? (other) => digestOf(tenantId, other).equals(digest) : (other) => other === user;
}

/**
 * What the audit log says of the user: who knows the id of the user finds out that it was this one, and who does not
 * learns nothing. The id of the erasure in it makes two erasures of one user two different texts.
 */
export const targetOf = (id: string, user: UserId): string =>
  `sha256:${createHash('sha256').update(`${id}:${user}`).digest('hex')}`;
