import type { Position } from '../core/position.ts';

/** A count goes no further than this. */
export const COUNTED = 1_000;

/** No more of what was said of single notifications is told at once. */
export const MOST_CHANGES = 50;

/** What a user says of one notification; undefined: nothing. */
export interface ItemMark {
  /** UUID. */
  readonly id: string;
  readonly read?: boolean | undefined;
  readonly archived?: boolean | undefined;
}

/** One notification of which something was said. */
export interface Change extends ItemMark {
  readonly revision: Position;
}

/** An inbox in numbers, as one statement saw it. */
export interface Snapshot {
  /** At most COUNTED each. */
  readonly unread: number;
  readonly unseen: number;
  /** Both are all there are. */
  readonly exact: boolean;
  readonly seenUpTo: Position;
  readonly readUpTo: Position;
  readonly archivedUpTo: Position;
  /** The head of the log that the statement saw: what is above is not counted. */
  readonly position: Position;
  readonly revision: Position;
  /** By the database's clock, ms since 1970. */
  readonly at: number;
  /** When the first of what is counted expires, ms since 1970; null: none does. */
  readonly nextExpiry: number | null;
  /** It is that of something for a topic or everyone. */
  readonly nextExpiryIsShared: boolean;
  /** What the last calls said of single notifications. */
  readonly changes: readonly Change[];
  /** `changes` are all that there were behind this revision, beside watermarks that moved. */
  readonly changesSince: Position;
  readonly floor: Position;
}

/** As it goes over the wire. */
export const snapshotJson = ({
  unread,
  unseen,
  exact,
  seenUpTo,
  readUpTo,
  archivedUpTo,
  position,
  revision,
  at,
  nextExpiry,
}: Snapshot) => ({
  unread,
  unseen,
  exact,
  seenUpTo: String(seenUpTo),
  readUpTo: String(readUpTo),
  archivedUpTo: String(archivedUpTo),
  position: String(position),
  revision: String(revision),
  at: new Date(at).toISOString(),
  nextExpiry: nextExpiry === null ? null : new Date(nextExpiry).toISOString(),
});
