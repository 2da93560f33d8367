import { Problem } from '../core/errors.ts';

/*
 * What keeps out of the database what an erasure has taken (docs/adr/0007-erasure-is-a-row.md): conditions for
 * statements that insert rows of users. `$1` is the tenant, and the user is SQL of a text that says of which table.
 *
 * Most tenants have no erasure of the last day, which one look tells once for the whole statement; the user is hashed
 * only where there is one. The order keeps that look in the index: of an `exists` the planner thinks that reading the
 * table will soon meet one. An empty digest stands for all of the tenant.
 */
const some = (user: string, inTenant: string, ofUser: string) => `(
  coalesce((select true from erasures e where e.tenant_id = $1 ${inTenant} order by e.digest limit 1), false) and exists (
    select from erasures e
    where e.tenant_id = $1 and e.digest in (sha256(convert_to($1::text || ':' || ${user}, 'UTF8')), ''::bytea) and ${ofUser}
  ))`;

/** True while the data of the user is being erased. */
export const beingErased = (user: string): string => some(user, 'and e.done_at is null', 'e.done_at is null');

/** True of what a stream did that was let in before its user was erased. @param openedAt SQL of a timestamptz: when it was */
export const wasErased = (user: string, openedAt: string): string =>
  some(user, '', `(e.done_at is null or ${openedAt} <= e.erased_at)`);

/** What callers are told meanwhile. */
export const nowBeingErased = (): Problem =>
  new Problem('being_erased', 'The data of this user is being erased.', { retryAfter: 2 });
