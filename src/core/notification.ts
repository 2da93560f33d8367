import { z } from 'zod';
import { topicSchema, userIdSchema, type TenantId, type Topic, type UserId } from './identifiers.ts';
import type { Position } from './position.ts';

/** Whom a notification is for. A topic or everyone is stored once and resolved when it is read. */
export type Recipient = { readonly user: UserId } | { readonly topic: Topic } | { readonly everyone: true };

/** A recipient as callers are shown it. */
export const recipientSchema = z.union([
  z.strictObject({ user: userIdSchema }),
  z.strictObject({ topic: topicSchema }),
  z.strictObject({ everyone: z.literal(true) }),
]);

/** The recipient of a row of the log. */
export function recipientOf({ user_id: user, topic }: RecipientColumns): Recipient {
  if (user !== null) return { user };
  return topic === null ? { everyone: true } : { topic };
}

/** Of which at most one is set. */
interface RecipientColumns {
  readonly user_id: UserId | null;
  readonly topic: Topic | null;
}

/** A notification that was checked and is not stored yet. */
export interface Draft {
  /** UUIDv7. */
  readonly id: string;
  readonly to: Recipient;
  readonly type: string;
  /** JSON text as it was sent, without the white space between its tokens: digits, escapes and order are the publisher's. */
  readonly data: string;
  /** Bytes of `data` in UTF-8. */
  readonly size: number;
  /** ms since 1970, or null: never. */
  readonly expiresAt: number | null;
  /** False: a signal for the app, which no inbox shows. */
  readonly inbox: boolean;
  /** W3C traceparent of the publish, if it had one. */
  readonly trace: string | null;
}

/** A notification in the log. */
export interface Notification extends Draft {
  readonly position: Position;
}

/** What one statement appended for one tenant. Whoever knows the log up to `previous` knows it up to `head` with these. */
export interface Batch {
  readonly tenantId: TenantId;
  readonly previous: Position;
  readonly head: Position;
  readonly notifications: readonly Notification[];
  /** `performance.now()` of this node when they were committed, on whichever node that was. */
  readonly committedAt: number;
}

/** What a publication became: notification n (from 0) has `ids[n]` and position `first + n`. */
export interface Stored {
  readonly first: Position;
  readonly ids: readonly string[];
  /** A key that had been used: this is the first answer again. */
  readonly replayed: boolean;
}
