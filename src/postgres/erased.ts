import { Problem } from '../core/errors.ts';

/*
 * SQL conditions for statements that insert rows of users, so that nothing comes back that an erasure has deleted
 * (docs/adr/0007-erasure-is-a-row.md). `$1` is the tenant. The user is given as SQL of a text, with the name of its table.
 *
 * The first half of the condition reads the index once per statement and finds nothing for most tenants, since few have an
 * erasure of the last day; only for the others is the user hashed. Its `order by` makes the planner use the index: for an
 * `exists` it expects that a scan of the table finds a row soon. An empty digest means all users of the tenant.
 */
const erasureOf = (user: string, inTenant: string, ofUser: string) => `(
  coalesce((select true from erasures e where e.tenant_id = $1 ${inTenant} order by e.digest limit 1), false) and exists (
    select from erasures e
    where e.tenant_id = $1 and e.digest in (sha256(convert_to($1::text || ':' || ${user}, 'UTF8')), ''::bytea) and ${ofUser}
  ))`;

/** True while the data of the user is being erased. */
export const beingErased = (user: string): string =>
  erasureOf(user, 'and e.done_at is null', 'e.done_at is null');

/** True of what a stream writes that was opened before its user was erased. @param openedAt SQL of a timestamptz: when it was opened */
export const wasErased = (user: string, openedAt: string): string =>
  erasureOf(user, '', `(e.done_at is null or ${openedAt} <= e.erased_at)`);

/** What callers are told while the data of a user is being erased. */
export const nowBeingErased = (): Problem =>
  new Problem('being_erased', 'The data of this user is being erased.', { retryAfter: 2 });
