import { z } from 'zod';
import type { AuditEntry } from '../audit/audit.store.ts';
import type { Principal } from '../http/principal.ts';
import { tenantIdSchema, type TenantId } from '../core/identifiers.ts';
import { targetOf, type Erased, type Erasure } from './erasure.ts';

/** Who ordered it, as its row keeps it until it is done. */
const orderSchema = z.strictObject({
  tenantId: tenantIdSchema,
  subject: z.string(),
  issuer: z.string(),
  remoteAddress: z.string(),
  requestId: z.string(),
});

export const orderedBy = (
  { tenantId, subject, issuer }: Principal,
  { ip: remoteAddress, id: requestId }: { readonly ip: string; readonly id: string },
): string =>
  JSON.stringify({ tenantId, subject, issuer, remoteAddress, requestId } satisfies z.input<
    typeof orderSchema
  >);

/** The record that an erasure is done, by whoever ordered it. */
export function entryOf(
  { tenantId, id, user }: Pick<Erasure, 'tenantId' | 'id' | 'user'>,
  account: { readonly orderedBy: string; readonly erased: Erased },
): AuditEntry {
  const { remoteAddress, requestId, ...actor } = orderSchema.parse(JSON.parse(account.orderedBy));
  const { erased } = account;
  const common = { tenantId, actor, remoteAddress, requestId, before: null, after: { erasure: id, erased } };
  return user === null
    ? { ...common, action: 'tenant.deleted', target: tenantId satisfies TenantId }
    : { ...common, action: 'user.erased', target: targetOf(id, user) };
}
