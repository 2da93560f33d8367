import type { DeviceId, UserId } from '../core/identifiers.ts';
import type { Recipient } from '../core/notification.ts';
import { timeOfPosition, type Position } from '../core/position.ts';

/** Exclusive, in this order of precedence: any device confirmed; the time is over; written to a socket; none of these yet. */
export const STATUSES = ['delivered', 'expired', 'sent', 'queued'] as const;
export type Status = (typeof STATUSES)[number];

/** A notification as the log holds it, with what only the database's clock can say. */
export interface LogEntry {
  readonly position: Position;
  readonly id: string;
  readonly to: Recipient;
  readonly type: string;
  /** JSON text, as it was published. */
  readonly data: string;
  readonly publisher: string;
  readonly expiresAt: Date | null;
  readonly expired: boolean;
}

/** What one device has of one notification, as the ledger recorded it. */
export interface Receipt {
  readonly user: UserId;
  readonly device: DeviceId;
  /** Intervals that cover the notification: how often it was written. 0 when that was forgotten, see docs/explanation/delivery-semantics.md. */
  readonly sends: number;
  readonly firstSentAt: Date | null;
  readonly lastSentAt: Date | null;
  readonly deliveredAt: Date | null;
}

/** Devices of a broadcast; with `more` there are at least so many. */
export interface Counts {
  readonly sent: number;
  readonly delivered: number;
  readonly more: boolean;
}

export function statusOf(
  expired: boolean,
  { sent, delivered }: { sent: boolean; delivered: boolean },
): Status {
  if (delivered) return 'delivered';
  if (expired) return 'expired';
  return sent ? 'sent' : 'queued';
}

export const summaryOf = (receipts: readonly Receipt[]) => ({
  sent: receipts.some(({ sends }) => sends > 0),
  delivered: receipts.some(({ deliveredAt }) => deliveredAt !== null),
});

/** What an acknowledgement of a device covers, before it is known whether the device could have had it. */
export interface Confirmation {
  readonly user: UserId;
  readonly device: DeviceId;
  readonly at: Date;
}

/**
 * An acknowledgement says "all that was addressed to me up to here"; what had expired by then may never have been
 * written. So a late one counts only for a device that the notification was written to.
 */
export const confirms = (entry: Pick<LogEntry, 'expiresAt'>, at: Date, sends: number): boolean =>
  entry.expiresAt === null || at < entry.expiresAt || sends > 0;

/** Joins what was written to each device with what it confirmed, in the order of user and device. */
export function receiptsOf(
  entry: Pick<LogEntry, 'expiresAt' | 'position'>,
  sent: readonly Omit<Receipt, 'deliveredAt'>[],
  confirmed: readonly Confirmation[],
): Receipt[] {
  const receipts = new Map<string, Receipt>();
  const keyOf = ({ user, device }: { user: string; device: string }) => `${device} ${user}`;
  for (const each of sent) receipts.set(keyOf(each), { ...each, deliveredAt: null });
  for (const { user, device, at } of confirmed) {
    const known = receipts.get(keyOf({ user, device }));
    if (!confirms(entry, at, known?.sends ?? 0)) continue;
    const unsent = { user, device, sends: 0, firstSentAt: null, lastSentAt: null };
    receipts.set(keyOf({ user, device }), { ...(known ?? unsent), deliveredAt: at });
  }
  return [...receipts.values()].map((receipt) => inOrder(entry.position, receipt)).sort(byDevice);
}

/**
 * The time of an interval is when the last of it was written, and the nodes' clocks are not the database's. What must
 * have happened earlier is never shown later: accepted, first sent, delivered.
 */
export function inOrder(position: Position, receipt: Receipt): Receipt {
  const accepted = timeOfPosition(position);
  const after = (time: Date | null, bound: number) =>
    time === null ? null : new Date(Math.max(time.getTime(), bound));
  const deliveredAt = after(receipt.deliveredAt, accepted);
  const lastSentAt = after(receipt.lastSentAt, accepted);
  const sentAt = after(receipt.firstSentAt, accepted);
  const firstSentAt = sentAt !== null && deliveredAt !== null && deliveredAt < sentAt ? deliveredAt : sentAt;
  return { ...receipt, deliveredAt, firstSentAt, lastSentAt: receipt.sends === 1 ? firstSentAt : lastSentAt };
}

/** Bytewise, as the database compares ids: UTF-8 order is the order of code points, which UTF-16 is not. */
export function byDevice(a: { user: string; device: string }, b: { user: string; device: string }): number {
  return (
    Buffer.compare(Buffer.from(a.user), Buffer.from(b.user)) ||
    Buffer.compare(Buffer.from(a.device), Buffer.from(b.device))
  );
}
