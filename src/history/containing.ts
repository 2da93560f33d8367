import { CLASS_WIDTHS } from '../receipts/intervals.ts';
import { POSITIONS_PER_MS } from '../core/position.ts';

/*
 * Pieces of SQL that find receipts: the intervals of `sends` and `acks` that contain the position of a notification. An
 * interval contains `x` if from_position < x <= to_position. `$1` is the tenant.
 */

const CLASSES = CLASS_WIDTHS.map((width, index) => `(${index}::smallint, ${width}::bigint)`).join(', ');

/**
 * The first width class whose intervals may reach over more than four days, and so over several partitions. A search by
 * class would read each of these partitions once for every such class.
 */
const WIDE = CLASS_WIDTHS.findIndex((width) => width > 4 * 86_400_000 * POSITIONS_PER_MS);

/** The head of the tenant's log, as `log.head`. The queries below need it beside them. */
export const LOG_HEAD = `(select head from tenant_logs where tenant_id = $1) as log`;

/**
 * SQL of the intervals of `table` that contain position `x`. They are searched by width class (src/receipts/intervals.ts):
 * in each class they end less than its width after `x`, which is a short index range. No interval ends behind the head, and
 * none is wider than the head. `offset 0` keeps the planner from making one join over the whole table of the ranges.
 *
 * @param x SQL of a bigint
 * @param columns of `i`, the interval
 */
export const containing = (table: 'sends' | 'acks', x: string, columns: string): string =>
  `(${byWidthClass(table, x, columns, '', CLASS_WIDTHS.length)})`;

/**
 * The same for what was sent to one user. A user has few wide intervals, so one search reads all of them, instead of one
 * search for each class and each partition between `x` and the head.
 *
 * @param user SQL of a text
 */
export const containingOfUser = (x: string, columns: string, user: string): string => {
  const ofUser = `and i.user_id = ${user}`;
  return `(
  ${byWidthClass('sends', x, columns, ofUser, WIDE)}
  union all
  (select ${columns} from sends i
  where i.tenant_id = $1 ${ofUser} and i.width_class >= ${WIDE}
    and i.to_position >= ${x} and i.to_position <= log.head and i.from_position < ${x}
  offset 0))`;
};

/**
 * @param condition on `i`; empty, or begins with `and`
 * @param classes how many width classes are searched, from the narrowest on
 */
const byWidthClass = (
  table: string,
  x: string,
  columns: string,
  condition: string,
  classes: number,
): string => `
  select i.* from (values ${CLASSES}) as w (class, width)
  cross join lateral (
    select ${columns} from ${table} i
    where i.tenant_id = $1 ${condition} and i.width_class = w.class
      and i.to_position >= ${x} and i.to_position < least(${x} + w.width, log.head + 1) and i.from_position < ${x}
    offset 0
  ) i
  where w.class < ${classes} and (w.class = 0 or w.width / 4 < log.head)`;

/**
 * SQL of the one acknowledgement of a device that may contain position `x`; it does if its `from_position` is below `x`.
 * Acknowledgements of a device do not overlap, so no other than the first that ends at or after `x` can contain it.
 */
export const ackOf = (user: string, device: string, x: string): string => `
  select a.at, a.from_position, a.by_resume, a.topics from acks a
  where a.tenant_id = $1 and a.user_id = ${user} and a.device_id = ${device} and a.to_position >= ${x}
  order by a.to_position limit 1`;

/**
 * SQL of whether a connection had a topic; null if the connection was not recorded. A topic reaches the connections whose
 * token has it. This is a search by key, because of an `exists` the planner makes a hash of all connections of the tenant.
 */
export const hadTopic = (connection: string, topic: string): string => `(
  select ${topic} = any(c.topics) from connections c where c.tenant_id = $1 and c.connection_id = ${connection})`;
