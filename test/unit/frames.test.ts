import { describe, expect, test } from '@jest/globals';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import fc from 'fast-check';
import { readConfig } from '../../src/core/config.ts';
import {
  deviceIdSchema,
  tenantIdSchema,
  topicSchema,
  typeSchema,
  userIdSchema,
} from '../../src/core/identifiers.ts';
import type { Recipient } from '../../src/core/notification.ts';
import { asPosition, createdAt } from '../../src/core/position.ts';
import { compact } from '../../src/http/raw-json.ts';
import {
  BYES,
  byeFrame,
  caughtUpFrame,
  contentOf,
  expiringFrame,
  gapFrame,
  greeting,
  HEARTBEAT,
  jittered,
  LAST_CHUNK,
  notificationFrame,
  positionFrame,
  syncFrame,
  type ByeReason,
  type Frame,
} from '../../src/delivery/frames.ts';
import { notification } from '../support/notifications.ts';
import { chunksIn } from '../support/wire.ts';

/** What an EventSource makes of these frames, cut into pieces of `piece` bytes on their way. */
function parse(frames: Frame | readonly Frame[], piece = Infinity) {
  const events: EventSourceMessage[] = [];
  const comments: string[] = [];
  const retries: number[] = [];
  const parser = createParser({
    onEvent: (event) => events.push(event),
    onComment: (comment) => comments.push(comment),
    onRetry: (retry) => retries.push(retry),
  });
  const decoder = new TextDecoder();
  const all = unframed([frames].flat());
  for (let i = 0; i < all.length; i += piece)
    parser.feed(decoder.decode(all.subarray(i, i + piece), { stream: true }));
  return { events, comments, retries };
}

/** What a client of HTTP/1.1 takes out of the chunks. */
function unframed(frames: readonly Frame[]): Buffer {
  const bytes = Buffer.concat([...frames, LAST_CHUNK].map((frame) => Buffer.from(frame)));
  const { body, next } = chunksIn(bytes.toString('latin1'));
  expect(next).toBe(bytes.length);
  return Buffer.from(body, 'latin1');
}

const P = asPosition(1_790_000_000_000_001);
const id = (text: string) => text.isWellFormed() && !/\p{Cc}/u.test(text);
const names = fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }).filter(id);
const recipients: fc.Arbitrary<Recipient> = fc.oneof(
  names.map((name) => ({ user: userIdSchema.parse(name) })),
  names.map((name) => ({ topic: topicSchema.parse(name) })),
  fc.constant<Recipient>({ everyone: true }),
);

describe('a notification', () => {
  test('is one nameless event with its position as id, whatever is in it and however it is cut on the way', () => {
    fc.assert(
      fc.property(
        recipients,
        fc.json({ stringUnit: 'binary' }),
        fc.option(fc.date({ noInvalidDate: true, min: new Date(0), max: new Date('9999-01-01') })),
        fc.integer({ min: 1, max: 60 }),
        (to, json, expires, piece) => {
          const { text: data } = compact(json);
          const given = { id: 'an-id', to, type: 'order.shipped', data };
          const frame = notificationFrame(
            notification(P, { ...given, expiresAt: expires?.getTime() ?? null }),
          );
          const { events } = parse(frame, piece);
          expect(events.map(({ id: position, event }) => ({ position, event }))).toEqual([
            { position: String(P), event: undefined },
          ]);
          expect(JSON.parse(events[0]?.data ?? '')).toEqual({
            ...given,
            data: JSON.parse(data),
            createdAt: createdAt(P),
            expiresAt: expires?.toISOString() ?? null,
          });
        },
      ),
    );
  });

  test('is at most 65,536 bytes with the longest names and the largest data, since many readers stop there', () => {
    const { MAX_DATA_BYTES: size } = readConfig({});
    for (const character of ['\u{1f44d}', '"', '\\', '\u2028']) {
      const longest = notificationFrame(
        notification(Number.MAX_SAFE_INTEGER - 1, {
          to: { topic: topicSchema.parse(character.repeat(256)) },
          type: typeSchema.parse('x'.repeat(128)),
          data: `"${'x'.repeat(size - 2)}"`,
          expiresAt: 8.64e15,
          inbox: false,
        }),
      );
      expect(longest.length).toBeLessThanOrEqual(65_536);
      expect(longest.length).toBeGreaterThan(size);
    }
  });

  test('says that it is a signal, and says nothing if it is none', () => {
    const frameOf = (inbox: boolean) =>
      Buffer.from(contentOf(notificationFrame(notification(P, { id: 'an-id', inbox })))).toString();
    const before = `id: ${P}\ndata: {"id":"an-id","type":"t","to":{"user":"alice"},"data":1,"createdAt":"${createdAt(P)}","expiresAt":null`;
    expect(frameOf(true)).toBe(`${before}}\n\n`);
    expect(frameOf(false)).toBe(`${before},"inbox":false}\n\n`);
  });

  test('carries data as it was written', () => {
    const data = '{"n":9223372036854775808,"e":"\\u00e9","a":1,"a":2}';
    expect(notificationFrame(notification(P, { data })).toString()).toContain(`"data":${data},`);
  });
});

describe('the other events', () => {
  test('sync says where the stream starts and moves no id; `oldest` is there only at a gap', () => {
    const sync = {
      connectionId: 'c',
      user: userIdSchema.parse('alice'),
      tenantId: tenantIdSchema.parse('acme'),
      device: deviceIdSchema.parse('phone'),
      resume: 'exact',
      from: P,
      head: P,
      oldest: undefined,
      tokenExpiresAt: 0,
      heartbeatSeconds: 15,
    } as const;
    const [event] = parse(syncFrame(sync)).events;
    expect(event).toMatchObject({ event: 'sync', id: undefined });
    expect(JSON.parse(event?.data ?? '')).toEqual({
      connectionId: 'c',
      user: 'alice',
      tenant: 'acme',
      device: 'phone',
      resume: 'exact',
      from: String(P),
      head: String(P),
      tokenExpiresAt: '1970-01-01T00:00:00.000Z',
      heartbeatSeconds: 15,
      features: ['inbox'],
    });
    const [gap] = parse(syncFrame({ ...sync, resume: 'gap', oldest: P })).events;
    expect(JSON.parse(gap?.data ?? '')).toMatchObject({ resume: 'gap', oldest: String(P) });
  });

  test('caught-up and position carry a position as id, gap and expiring do not', () => {
    const stream = [caughtUpFrame(P), positionFrame(P), gapFrame(asPosition(1), P), expiringFrame(0)];
    expect(parse(stream).events).toEqual([
      { event: 'caught-up', id: String(P), data: `{"position":"${P}"}` },
      { event: 'position', id: String(P), data: `{"position":"${P}"}` },
      { event: 'gap', id: undefined, data: `{"from":"1","oldest":"${P}"}` },
      { event: 'expiring', id: undefined, data: '{"at":"1970-01-01T00:00:00.000Z"}' },
    ]);
  });

  test.each(Object.keys(BYES) as ByeReason[])(
    'bye %s tells those that know it and those that know only retry',
    (reason) => {
      const { events, retries } = parse(byeFrame(reason, 1234));
      expect(retries).toEqual([1234]);
      expect(events.map(({ event, id: moved }) => [event, moved])).toEqual([['bye', undefined]]);
      expect(JSON.parse(events[0]?.data ?? '')).toEqual({
        reason,
        reconnect: BYES[reason].reconnect,
        retryAfterMs: 1234,
      });
    },
  );

  test('greeting and heartbeat are no events', () => {
    expect(parse([greeting(3000), HEARTBEAT])).toEqual({
      events: [],
      comments: ['', ''],
      retries: [3000],
    });
  });
});

test('a client of HTTP/1.0 gets the same without chunks', () => {
  const wide = notificationFrame(notification(P, { data: '"\u{1f44d} \u2028"' }));
  for (const frame of [wide, HEARTBEAT, greeting(1), byeFrame('shutdown', 1), caughtUpFrame(P)])
    expect(Buffer.from(contentOf(frame))).toEqual(unframed([frame]));
});

test('jitter stays between half and one and a half, and is not always the same', () => {
  const values = Array.from({ length: 500 }, () => jittered(3_000));
  expect(Math.min(...values)).toBeGreaterThanOrEqual(1_500);
  expect(Math.max(...values)).toBeLessThanOrEqual(4_500);
  expect(new Set(values).size).toBeGreaterThan(100);
});
