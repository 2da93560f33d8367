import type { DeviceId, UserId } from '../core/identifiers.ts';
import type { Notification } from '../core/notification.ts';
import { timeOfPosition, type Position } from '../core/position.ts';

/**
 * A notification has the first of these that is true: a user read it, a device confirmed it, it is over, it was written to a
 * socket, none of these.
 */
export const STATUSES = ['read', 'delivered', 'expired', 'sent', 'queued'] as const;
export type Status = (typeof STATUSES)[number];

/** What a user does with notifications. */
export const ENGAGEMENTS = ['seen', 'read', 'archived'] as const;
export type Engagement = (typeof ENGAGEMENTS)[number];

/** A notification as the log holds it, with what only the database's clock can say. */
export interface LogEntry extends Omit<Notification, 'size' | 'trace' | 'expiresAt'> {
  readonly publisher: string;
  readonly expiresAt: Date | null;
  readonly expired: boolean;
}

/** What is recorded of one notification and one device. */
export interface Receipt {
  readonly user: UserId;
  readonly device: DeviceId;
  /** How often it was written: the intervals that contain it. 0 if a node died before that was recorded. */
  readonly sends: number;
  readonly firstSentAt: Date | null;
  readonly lastSentAt: Date | null;
  readonly deliveredAt: Date | null;
}

/** What became of a notification to a user. */
export interface Outcome {
  /** When the user first read it. */
  readonly readAt: Date | null;
  readonly devices: readonly Receipt[];
}

/** How many devices a broadcast reached, and how many users read it; with `more` at least so many. */
export interface Counts {
  readonly sent: number;
  readonly delivered: number;
  readonly read: number;
  readonly more: boolean;
}

export function statusOf(
  expired: boolean,
  { sent, delivered, read }: { sent: boolean; delivered: boolean; read: boolean },
): Status {
  if (read) return 'read';
  if (delivered) return 'delivered';
  if (expired) return 'expired';
  return sent ? 'sent' : 'queued';
}

export const summaryOf = ({ readAt, devices }: Outcome) => ({
  sent: devices.some(({ sends }) => sends > 0),
  delivered: devices.some(({ deliveredAt }) => deliveredAt !== null),
  read: readAt !== null,
});

/** An acknowledgement that contains the notification. It is not known yet whether the device can have received it. */
export interface Confirmation {
  readonly user: UserId;
  readonly device: DeviceId;
  readonly at: Date;
}

/**
 * An acknowledgement says "I have all that was addressed to me up to here". What had expired by then may never have been
 * written, so after the expiry it counts only for a device to which the notification was written.
 */
export const confirms = (entry: Pick<LogEntry, 'expiresAt'>, at: Date, sends: number): boolean =>
  entry.expiresAt === null || at < entry.expiresAt || sends > 0;

/** That a user saw, read or archived what contains the notification: it alone (`single`), or all up to some place. */
export interface Engaged {
  readonly single: boolean;
  readonly at: Date;
}

/**
 * Whoever marks a single notification means that one. "All up to here" means what the inbox shows, and that leaves out what
 * has expired. So after the expiry it counts only for a user who had the notification before.
 *
 * @param reached a device of the user was sent it, or confirmed it
 */
export const engages = (
  entry: Pick<LogEntry, 'expiresAt'>,
  { single, at }: Engaged,
  reached: boolean,
): boolean => single || entry.expiresAt === null || at < entry.expiresAt || reached;

/** When the user of these receipts first read it. */
export function readAtOf(
  entry: Pick<LogEntry, 'expiresAt' | 'position'>,
  reads: readonly Engaged[],
  receipts: readonly Receipt[],
): Date | null {
  const times = reads
    .filter((read) => engages(entry, read, receipts.length > 0))
    .map(({ at }) => at.getTime());
  if (times.length === 0) return null;
  return new Date(Math.max(Math.min(...times), timeOfPosition(entry.position)));
}

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
  return [...receipts.values()].map((receipt) => clampTimes(entry.position, receipt)).sort(byDevice);
}

/**
 * Puts times in the order in which things must have happened: accepted, first sent, delivered. As recorded they may differ,
 * since the time of an interval is that of its last notification, and nodes have clocks of their own.
 */
function clampTimes(position: Position, receipt: Receipt): Receipt {
  const accepted = timeOfPosition(position);
  const after = (time: Date | null, bound: number) =>
    time === null ? null : new Date(Math.max(time.getTime(), bound));
  const deliveredAt = after(receipt.deliveredAt, accepted);
  const lastSentAt = after(receipt.lastSentAt, accepted);
  const sentAt = after(receipt.firstSentAt, accepted);
  const firstSentAt = sentAt !== null && deliveredAt !== null && deliveredAt < sentAt ? deliveredAt : sentAt;
  return { ...receipt, deliveredAt, firstSentAt, lastSentAt: receipt.sends === 1 ? firstSentAt : lastSentAt };
}

/** Bytewise, as the database compares ids. JavaScript's own order of texts, by UTF-16 units, is another one. */
function byDevice(a: { user: string; device: string }, b: { user: string; device: string }): number {
  return (
    Buffer.compare(Buffer.from(a.user), Buffer.from(b.user)) ||
    Buffer.compare(Buffer.from(a.device), Buffer.from(b.device))
  );
}
