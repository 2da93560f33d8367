import { Injectable } from '@nestjs/common';
import type { TenantId } from '../core/identifiers.ts';
import { asPosition, positionOfTime, START, timeOfPosition, type Position } from '../core/position.ts';
import { CountsStore, type Counted, type Look } from './counts.store.ts';
import { DeliveriesStore } from './deliveries.store.ts';
import { statusOf, summaryOf, type LogEntry, type Receipt, type Status } from './delivery-status.ts';
import type { HistoryItem } from './history-item.ts';
import type { HistoryQuery } from './history.query.ts';
import { HistoryStore, type Scan, type Selection } from './history.store.ts';

const END = asPosition(Number.MAX_SAFE_INTEGER);

/*
 * What one page may cost, whatever is asked of however long a log. A page that has reached a bound ends there, with a
 * cursor. Bounds are numbers of rows and not times, so that the same question has the same pages.
 */
const MOST_SCANNED = 5_000;
const MOST_JUDGED = 50;
const MOST_BYTES = 2 * 1024 * 1024;
/** Of broadcasts, as their cost adds up; what is being counted then is counted on. */
const MOST_COUNTED = 4_500;
const GLANCED_AT_ONCE = 6;
/** Rows of the log that are looked at first for a type; then four times as many. */
const FIRST_SCANNED = 200;

export type Filters = Omit<HistoryQuery, 'limit' | 'cursor'>;

export interface HistoryPage {
  readonly items: readonly HistoryItem[];
  /** The next page is below this; undefined: there is none. */
  readonly next: Position | undefined;
}

/** What a page has cost so far. */
interface Spent {
  scanned: number;
  judged: number;
  bytes: number;
  /** Of broadcasts, as their cost adds up. */
  counted: number;
  /** A topic had more of them than a list looks at: there are too many devices for others to have fewer. */
  vast: boolean;
}

interface Judged {
  readonly items: readonly HistoryItem[];
  /** Where the page goes on, if it did not get to the end of the entries. */
  readonly next: Position | undefined;
}

/** Pages of history: entries of the log, joined with what the ledger says of them. */
@Injectable()
export class HistoryService {
  constructor(
    private readonly log: HistoryStore,
    private readonly deliveries: DeliveriesStore,
    private readonly broadcasts: CountsStore,
  ) {}

  /** The next page below `before`, newest first. It may be short, even empty, while `next` is set. */
  async page(
    tenantId: TenantId,
    filters: Filters,
    before: Position | undefined,
    limit: number,
  ): Promise<HistoryPage> {
    const { user, topic, type, status, since, until } = filters;
    // Nothing is addressed to both.
    if (user !== undefined && topic !== undefined) return { items: [], next: undefined };
    const selection: Selection = { user, topic, type, first: since === undefined ? START : boundOf(since) };
    const items: HistoryItem[] = [];
    const spent: Spent = { scanned: 0, judged: 0, bytes: 0, counted: 0, vast: false };
    const within = () =>
      spent.scanned < MOST_SCANNED && spent.judged < MOST_JUDGED && spent.bytes < MOST_BYTES;
    let next: Position | undefined = asPosition(
      Math.min(before ?? END, until === undefined ? END : boundOf(until)),
    );
    let scan = FIRST_SCANNED / 4;
    do {
      const wanted = limit - items.length;
      const rows = status === undefined ? wanted : MOST_JUDGED;
      scan = type === undefined ? rows : Math.min(scan * 4, MOST_SCANNED - spent.scanned);
      const found: Scan = await this.log.scan(tenantId, selection, next, { scan, rows, bytes: MOST_BYTES });
      const judged: Judged = await this.#judge(
        tenantId,
        found.entries,
        next,
        { status, items: wanted },
        spent,
      );
      items.push(...judged.items);
      if (judged.next !== undefined) return { items, next: judged.next };
      next = found.reached;
      spent.scanned += found.scanned;
      spent.judged += found.entries.length;
      spent.bytes += judged.items.reduce((sum, { entry }) => sum + entry.data.length, 0);
    } while (next !== undefined && items.length < limit && within());
    return { items, next };
  }

  /** What became of one entry. */
  async item(tenantId: TenantId, entry: LogEntry): Promise<HistoryItem> {
    if (isBroadcast(entry)) return broadcastItem(entry, await this.#count(tenantId, entry, ['look', 'long']));
    const receipts = await this.deliveries.ofUsers(tenantId, [entry]);
    return userItem(entry, receipts.get(entry.position) ?? []);
  }

  /**
   * Finds what became of entries below `before`, in their order, until as many as are `wanted` are found, or
   * MOST_COUNTED were counted.
   */
  async #judge(
    tenantId: TenantId,
    entries: readonly LogEntry[],
    before: Position,
    wanted: { readonly status: Status | undefined; readonly items: number },
    spent: Spent,
  ): Promise<Judged> {
    const { status } = wanted;
    const receipts = await this.deliveries.ofUsers(tenantId, entries);
    const glances = new Map<Position, Counted>();
    const items: HistoryItem[] = [];
    let next = before;
    for (const [index, entry] of entries.entries()) {
      if (items.length >= wanted.items) return { items, next };
      if (isBroadcast(entry) && !glances.has(entry.position)) {
        if (spent.counted >= MOST_COUNTED) return { items, next };
        const group = entries.slice(index).filter(isBroadcast).slice(0, GLANCED_AT_ONCE);
        for (const glance of await this.broadcasts.counts(tenantId, group, 'glance')) {
          glances.set(...glance);
          spent.counted += glance[1].cost;
        }
      }
      const glance = glances.get(entry.position);
      let item =
        glance === undefined
          ? userItem(entry, receipts.get(entry.position) ?? [])
          : broadcastItem(entry, glance);
      // What is certain to have another status need not be counted.
      const isOpen = glance?.open === true && (!glance.certain || matches(item, status));
      const isTopic = 'topic' in entry.to;
      if (isOpen && !(isTopic && spent.vast)) {
        if (spent.counted >= MOST_COUNTED) return { items, next };
        const counted = await this.#count(tenantId, entry, isTopic ? ['short'] : ['look', 'long']);
        spent.counted += counted.cost;
        spent.vast ||= isTopic && counted.open;
        item = broadcastItem(entry, counted);
      }
      if (matches(item, status)) items.push(item);
      next = entry.position;
    }
    return { items, next: undefined };
  }

  /**
   * Counts one broadcast, by the first look that shows all or by the last. A topic in a tenant of very many devices is
   * counted to the end only when it is asked for by its id; in a list its counts are then a floor, with `more`.
   */
  async #count(tenantId: TenantId, entry: LogEntry, looks: readonly Look[]): Promise<Counted> {
    let found = NOTHING;
    for (const look of looks) {
      const counted = (await this.broadcasts.counts(tenantId, [entry], look)).get(entry.position) ?? NOTHING;
      found = { ...counted, cost: found.cost + counted.cost };
      if (!found.open) break;
    }
    return found;
  }
}

/** Of a tenant whose stream row is gone. */
const NOTHING: Counted = {
  counts: { sent: 0, delivered: 0, more: false },
  cost: 0,
  open: false,
  certain: true,
};

const isBroadcast = ({ to }: LogEntry): boolean => !('user' in to);

const matches = (item: HistoryItem, status: Status | undefined): boolean =>
  status === undefined || item.status === status;

const userItem = (entry: LogEntry, devices: readonly Receipt[]): HistoryItem => ({
  entry,
  status: statusOf(entry.expired, summaryOf(devices)),
  outcome: { devices },
});

const broadcastItem = (entry: LogEntry, { counts }: Counted): HistoryItem => ({
  entry,
  status: statusOf(entry.expired, { sent: counts.sent > 0, delivered: counts.delivered > 0 }),
  outcome: { counts },
});

/** The first position of a millisecond; far years are further than positions go. */
const boundOf = (ms: number): Position => positionOfTime(Math.min(ms, timeOfPosition(END)));
