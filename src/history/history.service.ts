import { Injectable } from '@nestjs/common';
import type { TenantId, Topic, UserId } from '../core/identifiers.ts';
import {
  asPosition,
  createdAt,
  positionOfTime,
  START,
  timeOfPosition,
  type Position,
} from '../core/position.ts';
import { HistoryPool } from '../postgres/pools.ts';
import { recipientOf } from '../core/notification.ts';
import type { Statement } from '../postgres/pool.ts';
import { DeliveriesStore, type BroadcastCounts, type CountDepth } from './deliveries.store.ts';
import {
  statusOf,
  summaryOf,
  type Counts,
  type LogEntry,
  type Outcome,
  type Status,
} from './delivery-status.ts';
import type { HistoryQuery } from './history.openapi.ts';

interface Selection {
  readonly user?: UserId | undefined;
  readonly topic?: Topic | undefined;
  readonly type?: string | undefined;
  /** First position that may be shown. */
  readonly first: Position;
}

/** What one bounded scan of the log found, newest first. */
interface Scan {
  readonly entries: readonly LogEntry[];
  /** Rows that were read. */
  readonly scanned: number;
  /** All rows at or above this position have been read; undefined: there are none below. */
  readonly reached: Position | undefined;
}

interface ScanLimits {
  /** Rows that are read. */
  readonly scan: number;
  /** Rows that are returned. */
  readonly rows: number;
  /** Bytes of `data` that are returned. The first row is returned whatever its size. */
  readonly bytes: number;
}

const COLUMNS = `n.position, n.id, n.user_id, n.topic, n.type, n.data, n.publisher, n.expires_at, n.inbox,
  coalesce(n.expires_at <= clock_timestamp(), false) as expired`;

/*
 * Reads $4 rows from the newest end of a range of one index, however many of them the filter on `type` leaves. `data` is
 * read last, by key, and only of the rows that are returned. The floor is read by the same statement, so that nothing is
 * shown that retention has already taken away.
 */
const select = (name: string, target: string): Statement => ({
  name,
  text: `
with scanned as materialized (
  select position, type, size from notifications
  where tenant_id = $1 and position < $3 ${target}
    and position >= (select greatest($2::bigint, floor + 1) from tenant_logs where tenant_id = $1)
  order by position desc limit $4
), matching as materialized (
  select position, sum(size) over (order by position desc) - size as bytes_before
  from scanned where $7::text is null or type = $7
  order by position desc limit $5
), summary as materialized (
  select min(position) as reached, count(*)::int as scanned,
    (count(*) filter (where $7::text is null or type = $7))::int as matched
  from scanned
)
select s.reached, s.scanned, s.matched, n.*
from summary s
left join lateral (
  select n.* from matching m
  cross join lateral (
    select ${COLUMNS} from notifications n where n.tenant_id = $1 and n.position = m.position offset 0
  ) n
  where m.bytes_before < $6
) n on true
order by n.position desc`,
});

const SELECT_ANY = select('history_any', '');
const SELECT_OF_USER = select('history_of_user', 'and user_id = $8');
const SELECT_OF_TOPIC = select('history_of_topic', 'and topic = $8 and user_id is null');

const FIND: Statement = {
  name: 'history_find',
  text: `
select ${COLUMNS} from notifications n
where n.tenant_id = $1 and n.id = $2
  and n.position > (select floor from tenant_logs where tenant_id = $1)`,
};

interface Row {
  position: Position;
  id: string;
  user_id: UserId | null;
  topic: Topic | null;
  type: string;
  data: string;
  publisher: string;
  expires_at: Date | null;
  inbox: boolean;
  expired: boolean;
}

type ScanRow = { reached: Position | null; scanned: number; matched: number } & (Row | { position: null });

/** Reads the log of a tenant backwards. */
@Injectable()
export class HistoryStore {
  constructor(private readonly pool: HistoryPool) {}

  /** The entries of `selection` below `before`, newest first, within `limits`. */
  async scan(tenantId: TenantId, selection: Selection, before: Position, limits: ScanLimits): Promise<Scan> {
    const { user, topic, type, first } = selection;
    const values = [first, before, limits.scan, limits.rows, limits.bytes, type ?? null];
    const target = user ?? topic;
    const statement =
      user !== undefined ? SELECT_OF_USER : topic !== undefined ? SELECT_OF_TOPIC : SELECT_ANY;
    const rows = await this.pool.rows<ScanRow>(
      tenantId,
      statement,
      target === undefined ? values : [...values, target],
    );
    const entries = rows.flatMap((row) => (row.position === null ? [] : [entryOf(row)]));
    const { scanned = 0, matched = 0, reached = null } = rows[0] ?? {};
    const cut = entries.length < matched;
    if (!cut && scanned < limits.scan) return { entries, scanned, reached: undefined };
    return { entries, scanned, reached: (cut ? entries.at(-1)?.position : reached) ?? undefined };
  }

  /** @param id a UUID */
  async find(tenantId: TenantId, id: string): Promise<LogEntry | undefined> {
    const [row] = await this.pool.rows<Row>(tenantId, FIND, [id]);
    return row === undefined ? undefined : entryOf(row);
  }
}

function entryOf(row: Row): LogEntry {
  const { position, id, type, data, publisher, expires_at: expiresAt, inbox, expired } = row;
  return { position, id, to: recipientOf(row), type, data, publisher, expiresAt, inbox, expired };
}

/** A notification with what became of it: that of its user, or counts if it is to a topic or to everyone. */
export interface HistoryItem {
  readonly entry: LogEntry;
  readonly status: Status;
  readonly outcome: Outcome | { readonly counts: Counts };
}

export type Filters = Omit<HistoryQuery, 'limit' | 'cursor'>;

interface HistoryPage {
  readonly items: readonly HistoryItem[];
  /** The next page is below this; undefined: there is none. */
  readonly next: Position | undefined;
}

/*
 * The scan budget: what one page may read, however long the log is and whatever is asked of it. A page whose budget is spent
 * ends there, with a cursor. The bounds are numbers of rows and not times, so that the same question has the same pages.
 */
const MAX_ROWS_SCANNED = 5_000;
const MAX_ENTRIES_READ = 50;
const MAX_BYTES = 2 * 1024 * 1024;
/** Intervals that are read to count broadcasts. A count that has begun is finished. */
const MAX_COUNT_COST = 4_500;

/** Rows of the log that are scanned first for a type; four times as many each time after that. */
const FIRST_SCAN = 200;
/** Broadcasts whose counts are estimated by one statement. */
const ESTIMATES_AT_ONCE = 6;

/** What a page has used of its scan budget. */
class ScanBudget {
  rowsScanned = 0;
  entriesRead = 0;
  bytes = 0;
  countCost = 0;
  /** A topic had more receipts than a list reads: with so many devices those of other topics would not be fewer. */
  topicsAreTooLarge = false;

  get isSpent(): boolean {
    return (
      this.rowsScanned >= MAX_ROWS_SCANNED || this.entriesRead >= MAX_ENTRIES_READ || this.bytes >= MAX_BYTES
    );
  }

  get mayCount(): boolean {
    return this.countCost < MAX_COUNT_COST;
  }
}

interface MatchingItems {
  readonly items: readonly HistoryItem[];
  /** Where the page goes on if it ends before the last entry. */
  readonly next: Position | undefined;
}

/** Pages of history: entries of the log, each with its receipts or counts. */
@Injectable()
export class HistoryService {
  constructor(
    private readonly log: HistoryStore,
    private readonly deliveries: DeliveriesStore,
  ) {}

  /** The next page below `before`, newest first. It may be short, even empty, while `next` is set. */
  async page(
    tenantId: TenantId,
    filters: Filters,
    before: Position | undefined,
    limit: number,
  ): Promise<HistoryPage> {
    const { user, topic, type, status, since, until } = filters;
    // No notification is addressed to both.
    if (user !== undefined && topic !== undefined) return { items: [], next: undefined };
    const selection: Selection = { user, topic, type, first: since === undefined ? START : boundOf(since) };
    const items: HistoryItem[] = [];
    const budget = new ScanBudget();
    let next: Position | undefined = asPosition(
      Math.min(before ?? END, until === undefined ? END : boundOf(until)),
    );
    let scan = FIRST_SCAN / 4;
    do {
      const wanted = limit - items.length;
      const rows = status === undefined ? wanted : MAX_ENTRIES_READ;
      scan = type === undefined ? rows : Math.min(scan * 4, MAX_ROWS_SCANNED - budget.rowsScanned);
      const found: Scan = await this.log.scan(tenantId, selection, next, { scan, rows, bytes: MAX_BYTES });
      const matching: MatchingItems = await this.#matching(
        tenantId,
        found.entries,
        next,
        { status, items: wanted },
        budget,
      );
      items.push(...matching.items);
      if (matching.next !== undefined) return { items, next: matching.next };
      next = found.reached;
      budget.rowsScanned += found.scanned;
      budget.entriesRead += found.entries.length;
      budget.bytes += matching.items.reduce((sum, { entry }) => sum + entry.data.length, 0);
    } while (next !== undefined && items.length < limit && !budget.isSpent);
    return { items, next };
  }

  /** One entry with what became of it. */
  async item(tenantId: TenantId, entry: LogEntry): Promise<HistoryItem> {
    if (isBroadcast(entry))
      return broadcastItem(entry, await this.#count(tenantId, entry, ['exact', 'longest']));
    const outcomes = await this.deliveries.ofUsers(tenantId, [entry]);
    return userItem(entry, outcomes.get(entry.position));
  }

  /**
   * The items of entries below `before`, in their order, which have the status that is wanted. Ends early when as many as
   * are wanted are found, or the budget allows no further count.
   */
  async #matching(
    tenantId: TenantId,
    entries: readonly LogEntry[],
    before: Position,
    wanted: { readonly status: Status | undefined; readonly items: number },
    budget: ScanBudget,
  ): Promise<MatchingItems> {
    const { status } = wanted;
    const outcomes = await this.deliveries.ofUsers(tenantId, entries);
    const estimates = new Map<Position, BroadcastCounts>();
    const items: HistoryItem[] = [];
    let next = before;
    for (const [index, entry] of entries.entries()) {
      if (items.length >= wanted.items) return { items, next };
      if (isBroadcast(entry) && !estimates.has(entry.position)) {
        if (!budget.mayCount) return { items, next };
        const group = entries.slice(index).filter(isBroadcast).slice(0, ESTIMATES_AT_ONCE);
        for (const [position, estimate] of await this.deliveries.counts(tenantId, group, 'estimate')) {
          estimates.set(position, estimate);
          budget.countCost += estimate.cost;
        }
      }
      const estimate = estimates.get(entry.position);
      let item =
        estimate === undefined
          ? userItem(entry, outcomes.get(entry.position))
          : broadcastItem(entry, estimate);
      // What certainly has another status than the one that is wanted need not be counted further.
      const countsFurther =
        estimate?.isCutShort === true && (!estimate.statusIsCertain || matches(item, status));
      const isTopic = 'topic' in entry.to;
      if (countsFurther && !(isTopic && budget.topicsAreTooLarge)) {
        if (!budget.mayCount) return { items, next };
        const counts = await this.#count(tenantId, entry, isTopic ? ['topicInList'] : ['exact', 'longest']);
        budget.countCost += counts.cost;
        budget.topicsAreTooLarge ||= isTopic && counts.isCutShort;
        item = broadcastItem(entry, counts);
      }
      if (matches(item, status)) items.push(item);
      next = entry.position;
    }
    return { items, next: undefined };
  }

  /**
   * Counts the devices and users of one broadcast, to the first of the depths that is enough or to the last. The devices of a topic
   * in a tenant of very many devices are counted to the end only if the notification is asked for by its id; in a list
   * its counts are then lower bounds, with `more`.
   */
  async #count(tenantId: TenantId, entry: LogEntry, depths: readonly CountDepth[]): Promise<BroadcastCounts> {
    let found = NOTHING;
    for (const depth of depths) {
      const counts = (await this.deliveries.counts(tenantId, [entry], depth)).get(entry.position) ?? NOTHING;
      found = { ...counts, cost: found.cost + counts.cost };
      if (!found.isCutShort) break;
    }
    return found;
  }
}

/** The counts in a tenant whose log is gone. */
const NOTHING: BroadcastCounts = {
  counts: { sent: 0, delivered: 0, read: 0, more: false },
  cost: 0,
  isCutShort: false,
  statusIsCertain: true,
};

const isBroadcast = ({ to }: LogEntry): boolean => !('user' in to);

const matches = (item: HistoryItem, status: Status | undefined): boolean =>
  status === undefined || item.status === status;

const userItem = (entry: LogEntry, outcome: Outcome = { readAt: null, devices: [] }): HistoryItem => ({
  entry,
  status: statusOf(entry.expired, summaryOf(outcome)),
  outcome,
});

const broadcastItem = (entry: LogEntry, { counts }: BroadcastCounts): HistoryItem => ({
  entry,
  status: statusOf(entry.expired, {
    sent: counts.sent > 0,
    delivered: counts.delivered > 0,
    read: counts.read > 0,
  }),
  outcome: { counts },
});

const END = asPosition(Number.MAX_SAFE_INTEGER);

/** The first position of a millisecond. Years beyond the last position have that one. */
const boundOf = (ms: number): Position => positionOfTime(Math.min(ms, timeOfPosition(END)));

/**
 * The item as JSON text. It is put together by hand around `data`, which goes out as it was published: by way of
 * JSON.parse and JSON.stringify its numbers would lose digits, and its objects keys that are there twice.
 */
export function itemJson({ entry, status, outcome }: HistoryItem): string {
  const { id, position, type, to, data, publisher, expiresAt, inbox } = entry;
  const before = JSON.stringify({ id, position: String(position), type, to });
  const after = JSON.stringify({
    publisher,
    createdAt: createdAt(position),
    expiresAt: expiresAt?.toISOString() ?? null,
    ...(inbox ? {} : { inbox }),
    status,
    ...outcome,
  });
  return `${before.slice(0, -1)},"data":${data},${after.slice(1)}`;
}

export const pageJson = (items: readonly HistoryItem[], nextCursor: string | null): string =>
  `{"items":[${items.map(itemJson).join(',')}],"nextCursor":${JSON.stringify(nextCursor)}}`;
