import { CLASS_WIDTHS } from '../receipts/intervals.ts';
import { POSITIONS_PER_MS } from '../core/position.ts';

/* Pieces of SQL that the questions to the ledger share. `$1` is the tenant. */

const CLASSES = CLASS_WIDTHS.map((width, index) => `(${index}::smallint, ${width}::bigint)`).join(', ');

/** The first class that may be wider than several partitions: each of them would be looked at once more for every such class. */
const WIDE = CLASS_WIDTHS.findIndex((width) => width > 4 * 86_400_000 * POSITIONS_PER_MS);

/** The tenant's head, for `covering`. */
export const LOG_HEAD = `(select head from tenant_logs where tenant_id = $1) as log`;

/**
 * The intervals of `table` that cover position `x`: in each width class those that end within its width
 * of `x` (src/receipts/intervals.ts), each class a short index range. Nothing reaches beyond the head, and nothing is wider
 * than it. `offset 0` keeps the planner from turning the ranges into one join over everything.
 *
 * @param x SQL of a bigint
 * @param columns of `i`, the interval
 */
export const covering = (table: 'sends' | 'acks', x: string, columns: string): string =>
  `(${narrow(table, x, columns, '', CLASS_WIDTHS.length)})`;

/**
 * The same of what was sent to one user, whose wide intervals are few: they are looked for at once, and not in each class and
 * each partition between `x` and the head.
 *
 * @param user SQL of a text
 */
export const coveringOfUser = (x: string, columns: string, user: string): string => {
  const target = `and i.user_id = ${user}`;
  return `(
  ${narrow('sends', x, columns, target, WIDE)}
  union all
  (select ${columns} from sends i
  where i.tenant_id = $1 ${target} and i.width_class >= ${WIDE}
    and i.to_position >= ${x} and i.to_position <= log.head and i.from_position < ${x}
  offset 0))`;
};

/** @param target a further condition on `i`, which begins with `and` */
const narrow = (table: string, x: string, columns: string, target: string, classes: number): string => `
  select i.* from (values ${CLASSES}) as w (class, width)
  cross join lateral (
    select ${columns} from ${table} i
    where i.tenant_id = $1 ${target} and i.width_class = w.class
      and i.to_position >= ${x} and i.to_position < least(${x} + w.width, log.head + 1) and i.from_position < ${x}
    offset 0
  ) i
  where w.class < ${classes} and (w.class = 0 or w.width / 4 < log.head)`;

/**
 * The acknowledgement of a device that may cover position `x`, if its `from_position` is below: those of a device do
 * not overlap, so the first that ends at or after `x` is the only one that can.
 */
export const ackOf = (user: string, device: string, x: string): string => `
  select a.at, a.from_position, a.by_resume, a.topics from acks a
  where a.tenant_id = $1 and a.user_id = ${user} and a.device_id = ${device} and a.to_position >= ${x}
  order by a.to_position limit 1`;

/**
 * Whether a connection had a topic; null when the connection was not recorded. What was sent to it was addressed to the
 * topics of its token. One look by key: the planner turns an `exists` into a hash of every connection of the tenant.
 */
export const hadTopic = (connection: string, topic: string): string => `(
  select ${topic} = any(c.topics) from connections c where c.tenant_id = $1 and c.connection_id = ${connection})`;
