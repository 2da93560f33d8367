/*
 * What the service says and is told: docs/reference/protocol.md. Positions and revisions are decimal strings, which are compared
 * as numbers only where the protocol says so.
 */

/** The types of an app's notifications, and what their `data` is. */
export type DataTypes = Record<string, unknown>;

type Recipient = { readonly user: string } | { readonly topic: string } | { readonly everyone: true };

interface NotificationOf<Type, Data> {
  readonly id: string;
  readonly position: string;
  readonly type: Type;
  readonly to: Recipient;
  readonly data: Data;
  /** RFC 3339. */
  readonly createdAt: string;
  /** RFC 3339; null: never. */
  readonly expiresAt: string | null;
}

/** As the stream brings it. */
export type Notification<Types extends DataTypes = DataTypes> = {
  [Type in keyof Types & string]: NotificationOf<Type, Types[Type]> & {
    /** `false`: a signal for the app, which no inbox shows. */
    readonly inbox?: false;
  };
}[keyof Types & string];

/** As the inbox has it. */
export type InboxItem<Types extends DataTypes = DataTypes> = {
  [Type in keyof Types & string]: NotificationOf<Type, Types[Type]> & {
    readonly seen: boolean;
    /** RFC 3339; null: it is not. */
    readonly readAt: string | null;
    readonly archivedAt: string | null;
  };
}[keyof Types & string];

/** The inbox in numbers. */
export interface Snapshot {
  readonly unread: number;
  readonly unseen: number;
  /** False: there may be more. */
  readonly exact: boolean;
  readonly seenUpTo: string;
  readonly readUpTo: string;
  readonly archivedUpTo: string;
  /** The end of the log that was counted to. */
  readonly position: string;
  /** Grows with every change by the user. */
  readonly revision: string;
  /** RFC 3339. */
  readonly at: string;
  /** RFC 3339; null: nothing that counts expires. */
  readonly nextExpiry: string | null;
}

/** What was said of one notification. */
export interface Change {
  readonly id: string;
  readonly read?: boolean;
  readonly archived?: boolean;
}

/** `event: inbox`. */
export interface InboxEvent extends Snapshot {
  /** The changes hold for whoever has the list of this revision or a later one. */
  readonly since?: string;
  readonly changes?: readonly Change[];
  /** In place of changes: the list has to be asked for again. */
  readonly reload?: true;
}

export interface InboxPage extends Snapshot {
  readonly items: readonly InboxItem[];
  readonly nextCursor: string | null;
}

export type Filter = 'all' | 'unread' | 'unseen' | 'archived';

/** Body of `POST /v1/inbox/marks`. Positions count before items. */
export interface Marks {
  readonly seenUpTo?: string;
  readonly readUpTo?: string;
  readonly archivedUpTo?: string;
  /** At most 200, each notification once. */
  readonly items?: readonly Change[];
  readonly revision?: string;
}

/** Its answer. */
export interface Marked extends Snapshot {
  /** Ids that are not in this inbox. */
  readonly unknown: readonly string[];
}

/** `event: sync`, the first of each stream. */
export interface Sync {
  readonly connectionId: string;
  readonly user: string;
  readonly tenant: string;
  readonly device: string;
  readonly resume: 'exact' | 'undelivered' | 'latest' | 'earliest' | 'gap' | 'reset';
  readonly from: string;
  readonly head: string;
  /** At a gap: where the stream goes on. */
  readonly oldest?: string;
  /** RFC 3339. */
  readonly tokenExpiresAt: string;
  readonly heartbeatSeconds: number;
  readonly features: readonly string[];
}

/** `event: gap`: what was between is not kept any more. */
export interface Gap {
  readonly from: string;
  readonly oldest: string;
}

/** `event: bye`, before an end that the service decides. */
export interface Bye {
  readonly reason: 'token-expired' | 'shutdown' | 'over-limit' | 'unavailable' | 'revoked' | 'replaced';
  readonly reconnect: boolean;
  readonly retryAfterMs: number;
}

/** An error of the service: RFC 9457, with a stable `code`. */
export interface Problem {
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly detail?: string;
}

/** Of two positions the larger is later. They are below 2^53. */
export const isAfter = (position: string, other: string): boolean => Number(position) > Number(other);
