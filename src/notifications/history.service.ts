import { Injectable } from '@nestjs/common';
import type { TenantId } from '../identifiers.ts';
import { asPosition, positionOfTime, START, timeOfPosition, type Position } from '../log/position.ts';
import { COUNTED_INTERVALS, DeliveriesStore, type Counted } from './deliveries.store.ts';
import {
  statusOf,
  summaryOf,
  type Counts,
  type LogEntry,
  type Receipt,
  type Status,
} from './delivery-status.ts';
import type { HistoryItem } from './history-item.ts';
import type { HistoryQuery } from './history.query.ts';
import { HistoryStore, type Scan, type Selection } from './history.store.ts';

const END = asPosition(Number.MAX_SAFE_INTEGER);

/*
 * What one page may cost, whatever is asked of however long a log. A page that has reached a bound ends there, with a
 * cursor. Bounds are numbers of rows and not times, so that the same question has the same pages.
 */
const MOST_SCANNED = 5_000;
const MOST_JUDGED = 300;
const JUDGED_AT_ONCE = 100;
const MOST_BYTES = 2 * 1024 * 1024;
const MOST_INTERVALS = 20_000;
/** Rows of the log that are looked at first for a type, and how many broadcasts are counted first; then four times as many. */
const FIRST_SCANNED = 200;
const FIRST_COUNTED = 2;

export type Filters = Omit<HistoryQuery, 'limit' | 'cursor'>;

export interface HistoryPage {
  readonly items: readonly HistoryItem[];
  /** The next page is below this; undefined: there is none. */
  readonly next: Position | undefined;
}

interface Judged {
  readonly items: readonly HistoryItem[];
  /** Intervals of the ledger that were counted. */
  readonly intervals: number;
  /** The last entry that was looked at, if there are more. */
  readonly stoppedAt: Position | undefined;
}

/** Pages of history: entries of the log, joined with what the ledger says of them. */
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
    // Nothing is addressed to both.
    if (user !== undefined && topic !== undefined) return { items: [], next: undefined };
    const selection: Selection = { user, topic, type, first: since === undefined ? START : boundOf(since) };
    const items: HistoryItem[] = [];
    const spent = { scanned: 0, judged: 0, intervals: 0, bytes: 0 };
    const within = () =>
      spent.scanned < MOST_SCANNED &&
      spent.judged < MOST_JUDGED &&
      spent.intervals < MOST_INTERVALS &&
      spent.bytes < MOST_BYTES;
    let next: Position | undefined = asPosition(
      Math.min(before ?? END, until === undefined ? END : boundOf(until)),
    );
    let scan = FIRST_SCANNED / 4;
    do {
      const wanted = limit - items.length;
      const rows = status === undefined ? wanted : JUDGED_AT_ONCE;
      scan = type === undefined ? rows : Math.min(scan * 4, MOST_SCANNED - spent.scanned);
      const found: Scan = await this.log.scan(tenantId, selection, next, { scan, rows, bytes: MOST_BYTES });
      const judged: Judged = await this.#judge(tenantId, found.entries, status, wanted);
      items.push(...judged.items);
      next = judged.stoppedAt ?? found.reached;
      spent.scanned += found.scanned;
      spent.judged += found.entries.length;
      spent.intervals += judged.intervals;
      spent.bytes += judged.items.reduce((sum, { entry }) => sum + entry.data.length, 0);
    } while (next !== undefined && items.length < limit && within());
    return { items, next };
  }

  /** What became of one entry. */
  async item(tenantId: TenantId, entry: LogEntry): Promise<HistoryItem> {
    const { items } = await this.#judge(tenantId, [entry], undefined, 1);
    const [item] = items;
    if (item === undefined) throw new Error('An entry without a filter is always an item.');
    return item;
  }

  /** Finds what became of entries, in their order, until `wanted` of the status that is asked for are found. */
  async #judge(
    tenantId: TenantId,
    entries: readonly LogEntry[],
    status: Status | undefined,
    wanted: number,
  ): Promise<Judged> {
    const receipts = await this.deliveries.ofUsers(tenantId, entries);
    const excluded = await this.#excluded(tenantId, entries, status);
    const left = entries.filter(({ position }) => !excluded.has(position));
    const counts = new Map<Position, Counted>();
    const items: HistoryItem[] = [];
    let [intervals, atOnce] = [0, FIRST_COUNTED];
    let last: Position | undefined;
    for (const [index, entry] of left.entries()) {
      if (items.length >= wanted) return { items, intervals, stoppedAt: last };
      if (!('user' in entry.to) && !counts.has(entry.position)) {
        if (intervals >= MOST_INTERVALS) return { items, intervals, stoppedAt: last };
        const group = left.slice(index).filter(isBroadcast).slice(0, atOnce);
        for (const [position, counted] of await this.deliveries.counts(tenantId, group, COUNTED_INTERVALS)) {
          counts.set(position, counted);
          intervals += counted.intervals;
        }
        atOnce *= 4;
      }
      const item = itemOf(entry, receipts.get(entry.position) ?? [], counts.get(entry.position));
      if (status === undefined || item.status === status) items.push(item);
      last = entry.position;
    }
    return { items, intervals, stoppedAt: undefined };
  }

  /**
   * Notifications to everyone that have another status than the one asked for. One interval of each kind tells, where
   * all devices were counted otherwise; with an expiry or a topic not every interval counts, so these are counted.
   */
  async #excluded(
    tenantId: TenantId,
    entries: readonly LogEntry[],
    status: Status | undefined,
  ): Promise<ReadonlySet<Position>> {
    const plain = entries.filter((entry) => 'everyone' in entry.to && entry.expiresAt === null);
    if (status === undefined || plain.length === 0) return new Set();
    const counts = await this.deliveries.counts(tenantId, plain, 1);
    return new Set(
      plain
        .map(({ position }) => position)
        .filter((position) => statusOf(false, someOf(counts.get(position))) !== status),
    );
  }
}

const isBroadcast = ({ to }: LogEntry): boolean => !('user' in to);

const someOf = (counts: Counts | undefined) => ({
  sent: (counts?.sent ?? 0) > 0,
  delivered: (counts?.delivered ?? 0) > 0,
});

function itemOf(entry: LogEntry, devices: readonly Receipt[], counted: Counted | undefined): HistoryItem {
  if ('user' in entry.to)
    return { entry, status: statusOf(entry.expired, summaryOf(devices)), outcome: { devices } };
  const counts = {
    sent: counted?.sent ?? 0,
    delivered: counted?.delivered ?? 0,
    more: counted?.more ?? false,
  };
  return { entry, status: statusOf(entry.expired, someOf(counts)), outcome: { counts } };
}

/** The first position of a millisecond; far years are further than positions go. */
const boundOf = (ms: number): Position => positionOfTime(Math.min(ms, timeOfPosition(END)));
