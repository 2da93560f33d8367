import { createHash } from 'node:crypto';
import { z } from 'zod';
import { digestOf, type TenantId, tenantIdSchema, type UserId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { type AuditEntry } from '../audit/audit.store.ts';
import { type Principal } from '../http/access.ts';

/** The erasure of a user, or of a whole tenant. Every node keeps it in memory until it is done. */
export interface Erasure {
  readonly tenantId: TenantId;
  readonly id: string;
  /** Of the user, see `digestOf`. Empty: the whole tenant. */
  readonly digest: Buffer;
  /** Null for a whole tenant, and when the erasure is done: then only the digest is left. */
  readonly user: UserId | null;
  /** The process that began it. */
  readonly worker: string;
  /** The last position that is erased. Null until that is known; until then every position counts as erased. */
  readonly position: Position | null;
  /** What belongs to streams that were opened until then is erased, in ms since 1970. Null like `position`. */
  readonly erasedAt: number | null;
  /** The rows are deleted. Every node purges its memory once more, now that nothing can be read into it again. */
  readonly emptied: boolean;
  readonly done: boolean;
}

/** How many rows of each kind were deleted. */
export type Erased = Readonly<Record<string, number>>;

/** What callers see of the erasure of a user. */
export interface ErasureView {
  readonly id: string;
  /** `closing`: streams are ended, and the erasure waits for what is under way. `erasing`: rows are deleted. */
  readonly status: 'closing' | 'erasing' | 'done';
  readonly createdAt: Date;
  readonly doneAt: Date | null;
  readonly erased: Erased;
}

/** `ErasureView` as JSON. */
export const erasureSchema = z
  .strictObject({
    id: z.uuid(),
    status: z.enum(['closing', 'erasing', 'done']).meta({
      description:
        '`closing`: streams are ended on every node, and what was under way is waited for. `erasing`: rows go, and what nodes still have in memory.',
    }),
    createdAt: z.iso.datetime(),
    doneAt: z.iso.datetime().nullable(),
    erased: z.record(z.string(), z.int()).meta({ description: 'How many of what are gone so far.' }),
  })
  .meta({ id: 'Erasure', description: 'The erasure of the data of a user. It does not say of whom.' });

export const WHOLE_TENANT = Buffer.alloc(0);

/** Which users an erasure concerns. */
export function whoOf({ tenantId, digest, user }: Erasure): ((user: string) => boolean) | 'everybody' {
  if (digest.length === 0) return 'everybody';
  return user === null ? (other) => digestOf(tenantId, other).equals(digest) : (other) => other === user;
}

/**
 * What the audit log says of the user. Whoever knows the id of the user can verify that it was this user, and whoever does
 * not know it learns nothing. With the id of the erasure in it, two erasures of one user have different texts.
 */
export const targetOf = (id: string, user: UserId): string =>
  `sha256:${createHash('sha256').update(`${id}:${user}`).digest('hex')}`;

/** Who asked for an erasure, as its row keeps it in `ordered_by` for the audit entry at the end. */
const requesterSchema = z.strictObject({
  tenantId: tenantIdSchema,
  subject: z.string(),
  issuer: z.string(),
  remoteAddress: z.string(),
  requestId: z.string(),
});

export const requesterOf = (
  { tenantId, subject, issuer }: Principal,
  { ip: remoteAddress, id: requestId }: { readonly ip: string; readonly id: string },
): string =>
  JSON.stringify({ tenantId, subject, issuer, remoteAddress, requestId } satisfies z.input<
    typeof requesterSchema
  >);

/** The audit entry that an erasure is done, in the name of whoever asked for it. */
export function auditEntryOf(
  { tenantId, id, user }: Pick<Erasure, 'tenantId' | 'id' | 'user'>,
  completed: { readonly orderedBy: string; readonly erased: Erased },
): AuditEntry {
  const { remoteAddress, requestId, ...actor } = requesterSchema.parse(JSON.parse(completed.orderedBy));
  const { erased } = completed;
  const common = { tenantId, actor, remoteAddress, requestId, before: null, after: { erasure: id, erased } };
  return user === null
    ? { ...common, action: 'tenant.deleted', target: tenantId satisfies TenantId }
    : { ...common, action: 'user.erased', target: targetOf(id, user) };
}
