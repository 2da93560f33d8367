import { randomInt } from 'node:crypto';
import type { DeviceId, TenantId, UserId } from '../core/identifiers.ts';
import type { Notification } from '../core/notification.ts';
import { createdAt, type Position } from '../core/position.ts';
import { snapshotJson } from '../inbox/snapshot.ts';
import type { Told } from './inbox-watch.ts';

/*
 * What goes over the wire: Server-Sent Events as WHATWG HTML § 9.2 defines them. Positions are decimal strings, ids
 * are ASCII, and JSON without white space holds no CR or LF, so every event has exactly one `data:` line.
 *
 * Each is a chunk (RFC 9112 § 7.1). Python's `requests`, Tornado and others read a body that only the end of the connection ends
 * by the buffer: they hold an event back until others have filled it. A chunk they give out when it has come.
 */

/** One event or comment, as a chunk. */
export type Frame = string | Buffer;

const chunk = (text: string): string => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;

/** Behind the last frame: the stream has ended and was not cut off. */
export const LAST_CHUNK = '0\r\n\r\n';

/** What is in the chunk, for a client of HTTP/1.0, which knows none. A buffer's bytes are shared. */
export function contentOf(frame: Frame): Frame {
  const from = frame.indexOf('\n') + 1;
  return typeof frame === 'string' ? frame.slice(from, -2) : frame.subarray(from, -2);
}

/** A notification has no `event:` field, so a plain `EventSource.onmessage` gets notifications and nothing else. */
export function notificationFrame(notification: Notification): Buffer {
  const { position, id, type, to, data, expiresAt, inbox } = notification;
  const expiry = expiresAt === null ? 'null' : `"${new Date(expiresAt).toISOString()}"`;
  const signal = inbox ? '' : ',"inbox":false';
  // `data` goes in as text: stringified again it would lose the publisher's digits and escapes.
  return Buffer.from(
    chunk(
      `id: ${position}\ndata: {"id":"${id}","type":"${type}","to":${JSON.stringify(to)},"data":${data},"createdAt":"${createdAt(position)}","expiresAt":${expiry}${signal}}\n\n`,
    ),
  );
}

const event = (name: string, data: Record<string, unknown>, id?: Position, retryMs?: number): string =>
  chunk(
    `${retryMs === undefined ? '' : `retry: ${retryMs}\n`}event: ${name}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`,
  );

export type Resume = 'exact' | 'undelivered' | 'latest' | 'earliest' | 'gap' | 'reset';

/** Names of what this service offers on a stream beyond the first version of the protocol. */
const FEATURES: readonly string[] = ['inbox'];

export interface Sync {
  readonly connectionId: string;
  readonly user: UserId;
  readonly tenantId: TenantId;
  readonly device: DeviceId;
  readonly resume: Resume;
  /** Where it reads on; at a gap, where the device was. */
  readonly from: Position;
  readonly head: Position;
  /** At a gap: where it continues. */
  readonly oldest: Position | undefined;
  /** ms since 1970. */
  readonly tokenExpiresAt: number;
  readonly heartbeatSeconds: number;
}

export function syncFrame({
  connectionId,
  user,
  tenantId: tenant,
  device,
  resume,
  from,
  head,
  oldest,
  tokenExpiresAt,
  heartbeatSeconds,
}: Sync): string {
  return event('sync', {
    connectionId,
    user,
    tenant,
    device,
    resume,
    from: String(from),
    head: String(head),
    ...(oldest === undefined ? {} : { oldest: String(oldest) }),
    tokenExpiresAt: new Date(tokenExpiresAt).toISOString(),
    heartbeatSeconds,
    features: FEATURES,
  });
}

/** Ends the backlog. Its id lets a client resume that has seen no notification yet. */
export const caughtUpFrame = (position: Position): string =>
  event('caught-up', { position: String(position) }, position);

/** Moves the last event id of a client that nothing was addressed to. A named event, since Firefox ignores a block of only `id:`. */
export const positionFrame = (position: Position): string =>
  event('position', { position: String(position) }, position);

/** Retention overtook this reader: what was in (from, oldest] is gone. */
export const gapFrame = (from: Position, oldest: Position): string =>
  event('gap', { from: String(from), oldest: String(oldest) });

/** No id: it is no entry of the log, and only the last counts. */
export const inboxFrame = ({ snapshot, changes }: Told): string =>
  event('inbox', {
    ...snapshotJson(snapshot),
    ...(changes === undefined
      ? { reload: true }
      : {
          since: String(changes.since),
          changes: changes.list.map(({ id, read, archived }) => ({ id, read, archived })),
        }),
  });

export const expiringFrame = (at: number): string => event('expiring', { at: new Date(at).toISOString() });

/**
 * Why the server ends a stream. `reconnect` tells a client whether to come back by itself: after `token-expired` with
 * a new token, after `revoked` and `replaced` not at all.
 */
export const BYES = {
  'token-expired': { reconnect: true },
  revoked: { reconnect: false },
  shutdown: { reconnect: true },
  replaced: { reconnect: false },
  'over-limit': { reconnect: true },
  unavailable: { reconnect: true },
} as const;
export type ByeReason = keyof typeof BYES;

/** The `retry:` in front makes a native EventSource, which does not know `bye`, wait as long. */
export const byeFrame = (reason: ByeReason, retryAfterMs: number): string =>
  event('bye', { reason, reconnect: BYES[reason].reconnect, retryAfterMs }, undefined, retryAfterMs);

export const HEARTBEAT = Buffer.from(chunk(':\n\n'));

/** Leaves at once, so that a proxy or a client knows that the stream is open before the database was asked. */
export const greeting = (retryMs: number): string => chunk(`retry: ${retryMs}\n:\n\n`);

/**
 * When to come back after what does not pass by itself soon, in ms. A plain EventSource does so even when it should not at
 * all: two that replace one another would otherwise do it every few seconds.
 */
export const SLOW_RETRY_MS = 60_000;

/** 0.5 to 1.5 times `ms`: clients that lost their streams together do not come back together. */
export const jittered = (ms: number): number => Math.round(ms / 2) + randomInt(0, Math.max(1, ms));
