import { describe, expect, test } from '@jest/globals';
import { readConfig } from '../../src/config.ts';
import { Problem } from '../../src/errors.ts';
import { limitsOf, NO_LIMITS } from '../../src/limits.ts';
import { readJson } from '../../src/json-body.ts';
import { fingerprintOf, readPublication, type PublishRoute } from '../../src/notifications/publication.ts';

const NOW = Date.UTC(2026, 10, 22);
const read = (route: PublishRoute, body: string, settings: Record<string, string> = {}) => {
  const config = readConfig(settings);
  return readPublication(route, readJson(Buffer.from(body)), null, NOW, config, limitsOf(NO_LIMITS, config));
};

function refusalOf(route: PublishRoute, body: string, settings?: Record<string, string>): Problem {
  try {
    const { refusal } = read(route, body, settings);
    if (refusal !== undefined) return refusal;
  } catch (error) {
    if (error instanceof Problem) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

const pointers = (problem: Problem) => problem.errors?.map(({ pointer }) => pointer);

describe('what a publish becomes', () => {
  test('one draft per user, in their order, each with an id of its own and the same data', () => {
    const { drafts, users } = read('single', '{"to":{"users":["b","a"]},"type":"t","data":{ "n" : 1.0 }}');
    expect(users).toEqual(['b', 'a']);
    expect(drafts.map(({ to, data, size }) => ({ to, data, size }))).toEqual([
      { to: { user: 'b' }, data: '{"n":1.0}', size: 9 },
      { to: { user: 'a' }, data: '{"n":1.0}', size: 9 },
    ]);
    expect(new Set(drafts.map(({ id }) => id)).size).toBe(2);
  });

  test('the members of data that have the names of the envelope stay data', () => {
    const { drafts } = read('single', '{"data":{"data":1,"to":2,"to":3},"type":"t","to":{"everyone":true}}');
    expect(drafts[0]?.data).toBe('{"data":1,"to":2,"to":3}');
  });

  test('in a batch every item keeps its own data, and users stand where their item stands', () => {
    const { drafts } = read(
      'batch',
      '{"notifications":[{"to":{"user":"a"},"type":"x","data":1},{"to":{"users":["b","c"]},"type":"y","data":[ 2 ]},{"to":{"topic":"d"},"type":"z","data":"3"}]}',
    );
    expect(drafts.map(({ to, type, data }) => ({ to, type, data }))).toEqual([
      { to: { user: 'a' }, type: 'x', data: '1' },
      { to: { user: 'b' }, type: 'y', data: '[2]' },
      { to: { user: 'c' }, type: 'y', data: '[2]' },
      { to: { topic: 'd' }, type: 'z', data: '"3"' },
    ]);
  });

  test('size is counted in bytes and without white space', () => {
    expect(read('single', '{"to":{"user":"a"},"type":"t","data":[ "é" ]}').drafts[0]?.size).toBe(6);
  });

  test.each([
    ['a time with an offset', '"expiresAt":"2026-12-01T01:00:00+01:00"', Date.UTC(2026, 11, 1)],
    ['seconds from now', '"ttlSeconds":90', NOW + 90_000],
    [
      'the last moment of the calendar',
      '"expiresAt":"9999-12-31T23:59:59.999Z"',
      Date.UTC(9999, 11, 31, 23, 59, 59, 999),
    ],
  ])('expiry as %s', (_, member, expected) => {
    expect(read('single', `{"to":{"user":"a"},"type":"t","data":1,${member}}`).drafts[0]?.expiresAt).toBe(
      expected,
    );
  });
});

describe('what is refused', () => {
  test.each([
    ['a double of data', '{"to":{"user":"a"},"type":"t","data":1,"data":2}', ['/data']],
    ['a double in escapes', '{"to":{"user":"a"},"type":"t","data":1,"d\\u0061ta":2}', ['/data']],
    ['a double of to', '{"to":{"user":"a"},"to":{"user":"b"},"type":"t","data":1}', ['/to']],
    ['a double of the user', '{"to":{"user":"a","user":"b"},"type":"t","data":1}', ['/to/user']],
    [
      'an expiry at this moment',
      `{"to":{"user":"a"},"type":"t","data":1,"expiresAt":"${new Date(NOW).toISOString()}"}`,
      ['/expiresAt'],
    ],
    [
      'an expiry beyond the calendar',
      '{"to":{"user":"a"},"type":"t","data":1,"expiresAt":"9999-12-31T23:59:59-12:00"}',
      ['/expiresAt'],
    ],
  ])('%s', (_, body, expected) => {
    expect(pointers(refusalOf('single', body))).toEqual(expected);
  });

  test('in a batch, with the place of the item', () => {
    const body =
      '{"notifications":[{"to":{"user":"a"},"type":"t","data":1},{"to":{"user":"a"},"type":"t","data":1,"data":1}]}';
    expect(pointers(refusalOf('batch', body))).toEqual(['/notifications/1/data']);
    expect(
      pointers(
        refusalOf('batch', '{"notifications":[],"notifications":[{"to":{"user":"a"},"type":"t","data":1}]}'),
      ),
    ).toEqual(['/notifications']);
  });

  test('data over the limits, with what was counted', () => {
    const limits = { MAX_DATA_BYTES: '4', MAX_DATA_DEPTH: '2' };
    const refusal = refusalOf('single', '{"to":{"user":"a"},"type":"t","data":[[[ 1 ]]]}', limits);
    expect(refusal.errors).toEqual([
      { pointer: '/data', detail: expect.stringContaining('7 bytes') },
      { pointer: '/data', detail: expect.stringContaining('3 levels') },
    ]);
    expect(read('single', '{"to":{"user":"a"},"type":"t","data":[[]] }', limits).refusal).toBeUndefined();
  });

  test('more than the burst of the tenant, which no waiting would let pass', () => {
    const settings = { NOTIFICATIONS_PER_SECOND: '1', NOTIFICATIONS_BURST_SECONDS: '2' };
    const refusal = refusalOf('single', '{"to":{"users":["a","b","c"]},"type":"t","data":1}', settings);
    expect(refusal.errors).toEqual([
      { pointer: '/to/users', detail: expect.stringContaining('makes 3 notifications; at most 2 ') },
    ]);
  });

  test('more than the limit after expansion, also when single items are small', () => {
    const limits = { MAX_NOTIFICATIONS_PER_REQUEST: '3' };
    const item = '{"to":{"users":["a","b"]},"type":"t","data":1}';
    expect(pointers(refusalOf('batch', `{"notifications":[${item},${item}]}`, limits))).toEqual([
      '/notifications',
    ]);
    expect(
      pointers(refusalOf('single', '{"to":{"users":["a","b","c","d"]},"type":"t","data":1}', limits)),
    ).toEqual(['/to/users']);
    expect(
      read('batch', `{"notifications":[${item},{"to":{"user":"a"},"type":"t","data":1}]}`, limits).refusal,
    ).toBeUndefined();
  });
});

describe('what a key stands for', () => {
  test('the route and every byte of the body', () => {
    const body = Buffer.from('{}');
    const fingerprint = fingerprintOf('single', body);
    expect(fingerprintOf('single', Buffer.from('{}'))).toEqual(fingerprint);
    expect(fingerprintOf('batch', body)).not.toEqual(fingerprint);
    expect(fingerprintOf('single', Buffer.from('{ }'))).not.toEqual(fingerprint);
  });
});
