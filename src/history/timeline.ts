import { timeOfPosition } from '../core/position.ts';
import { confirms, type LogEntry } from './delivery-status.ts';

/** What the ledger has of one notification; with `more` there is more than was read. */
export interface Deliveries {
  readonly sends: readonly {
    readonly user: string;
    readonly device: string;
    readonly connection: string;
    /** Null: the connection itself was not recorded. */
    readonly node: string | null;
    readonly at: Date;
    readonly replayed: boolean;
  }[];
  readonly acks: readonly {
    readonly user: string;
    readonly device: string;
    readonly at: Date;
    readonly byResume: boolean;
  }[];
  readonly more: boolean;
}

export type TimelineEvent = 'accepted' | 'sent' | 'replayed' | 'delivered' | 'expired';

export interface TimelineEntry {
  readonly event: TimelineEvent;
  readonly at: string;
  readonly publisher?: string;
  readonly user?: string;
  readonly device?: string;
  readonly connectionId?: string;
  readonly node?: string | null;
  readonly by?: 'ack' | 'resume';
}

/** Where an entry stands: its time, what must come before what at the same time, and who. */
export type TimelineKey = readonly [
  at: number,
  rank: number,
  user: string,
  device: string,
  connection: string,
];

export const keyOf = (entry: TimelineEntry): TimelineKey => [
  Date.parse(entry.at),
  RANK[entry.event],
  entry.user ?? '',
  entry.device ?? '',
  entry.connectionId ?? '',
];

const RANK: Record<TimelineEvent, number> = { accepted: 0, sent: 1, replayed: 1, delivered: 2, expired: 3 };

export function compareKeys(a: TimelineKey, b: TimelineKey): number {
  return (
    a[0] - b[0] ||
    a[1] - b[1] ||
    compareText(a[2], b[2]) ||
    compareText(a[3], b[3]) ||
    compareText(a[4], b[4])
  );
}

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/**
 * What happened to a notification, in order. An interval's time is when the last of it was written, and nodes have
 * clocks of their own: nothing is shown before it was accepted, and the first that was sent to a device not after the
 * device confirmed it.
 */
export function timelineOf(entry: LogEntry, { sends, acks }: Deliveries): TimelineEntry[] {
  const accepted = timeOfPosition(entry.position);
  const timeOf = (at: Date) => Math.max(at.getTime(), accepted);
  const deviceOf = ({ user, device }: { user: string; device: string }) => `${device} ${user}`;
  const sentTo = Map.groupBy(sends, deviceOf);
  const confirmed = acks.filter((ack) => confirms(entry, ack.at, sentTo.get(deviceOf(ack))?.length ?? 0));
  const confirmedAt = new Map(confirmed.map((ack) => [deviceOf(ack), timeOf(ack.at)]));

  const entries: TimelineEntry[] = [{ event: 'accepted', at: iso(accepted), publisher: entry.publisher }];
  for (const [key, ofDevice] of sentTo) {
    const inOrder = ofDevice.toSorted((a, b) => a.at.getTime() - b.at.getTime());
    inOrder.forEach(({ user, device, connection: connectionId, node, at, replayed }, index) => {
      const time = index === 0 ? Math.min(timeOf(at), confirmedAt.get(key) ?? Infinity) : timeOf(at);
      entries.push({
        event: replayed ? 'replayed' : 'sent',
        at: iso(time),
        user,
        device,
        connectionId,
        node,
      });
    });
  }
  for (const { user, device, at, byResume } of confirmed) {
    entries.push({ event: 'delivered', at: iso(timeOf(at)), user, device, by: byResume ? 'resume' : 'ack' });
  }
  if (entry.expired && entry.expiresAt !== null)
    entries.push({ event: 'expired', at: iso(timeOf(entry.expiresAt)) });
  return entries.sort((a, b) => compareKeys(keyOf(a), keyOf(b)));
}

const iso = (ms: number): string => new Date(ms).toISOString();
