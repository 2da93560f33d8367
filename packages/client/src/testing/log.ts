import type { Notification } from '../wire.ts';

/** A notification as the fake keeps it. Positions are numbers inside. */
export interface Entry {
  readonly id: string;
  readonly position: number;
  readonly type: string;
  readonly to: Notification['to'];
  readonly data: unknown;
  /** ms since 1970; null: never. */
  readonly expiresAt: number | null;
  readonly inbox: boolean;
}

/** Whose it is. The topics of the token in hand say what is addressed to it. */
export interface Reader {
  readonly user: string;
  readonly topics: readonly string[];
}

/** What is kept, in order, and from where to where. */
export interface Log {
  entries: Entry[];
  head: number;
  /** Nothing at or below is kept. */
  floor: number;
}

const EPOCH = Date.UTC(2020, 0, 1);
const POSITIONS_PER_MS = 4_096;

/** Positions are made of time: ms since 2020 × 4096, and a count. */
export const positionOf = (ms: number): number => Math.max(0, Math.floor(ms - EPOCH)) * POSITIONS_PER_MS;
export const timeOf = (position: number): number => Math.floor(position / POSITIONS_PER_MS) + EPOCH;

/** RFC 3339. */
export const timeText = (ms: number): string => new Date(ms).toISOString();

/** Anything but the canonical decimal form of a position is undefined. */
export function positionIn(text: unknown): number | undefined {
  if (typeof text !== 'string' || !/^(?:0|[1-9][0-9]{0,15})$/.test(text)) return undefined;
  const position = Number(text);
  return Number.isSafeInteger(position) ? position : undefined;
}

export function isFor({ to }: Pick<Entry, 'to'>, { user, topics }: Reader): boolean {
  if ('user' in to) return to.user === user;
  return 'everyone' in to || topics.includes(to.topic);
}

export const isExpired = ({ expiresAt }: Pick<Entry, 'expiresAt'>, now: number): boolean =>
  expiresAt !== null && expiresAt <= now;

/** The data of its event. */
export function notificationOf({ id, type, to, data, position, expiresAt, inbox }: Entry) {
  const createdAt = timeText(timeOf(position));
  return { id, type, to, data, createdAt, expiresAt: timeOrNull(expiresAt), ...(inbox ? {} : { inbox }) };
}

/** What its item in a list begins with. */
export function itemOf({ id, position, type, to, data, expiresAt }: Entry) {
  const createdAt = timeText(timeOf(position));
  return { id, position: String(position), type, to, data, createdAt, expiresAt: timeOrNull(expiresAt) };
}

const timeOrNull = (ms: number | null): string | null => (ms === null ? null : timeText(ms));
