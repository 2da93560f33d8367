import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { Problem } from '../../src/core/errors.ts';
import { limitsOf, NO_LIMITS } from '../../src/core/limits.ts';
import { readJson } from '../../src/http/json-body.ts';
import {
  fingerprintOf,
  readEnvelope,
  readPublication,
  type PublishRoute,
} from '../../src/publishing/publication.ts';
import { TimeSlicer } from '../../src/concurrency/pacing.ts';
import { testConfig, type TestSettings } from '../support/settings.ts';

const NOW = Date.UTC(2026, 10, 22);
const read = async (route: PublishRoute, text: string, settings: TestSettings = {}) => {
  const config = testConfig(settings);
  const body = readJson(Buffer.from(text));
  const envelope = await readEnvelope(route, body);
  return await readPublication(route, body, envelope, null, NOW, config, limitsOf(NO_LIMITS, config));
};

async function refusalOf(route: PublishRoute, body: string, settings?: TestSettings): Promise<Problem> {
  try {
    const { refusal } = await read(route, body, settings);
    if (refusal !== undefined) return refusal;
  } catch (error) {
    if (error instanceof Problem) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

const pointers = (problem: Problem) => problem.errors?.map(({ pointer }) => pointer);

describe('what a publish becomes', () => {
  test('one draft per user, in their order, each with an id of its own and the same data', async () => {
    const { drafts, users } = await read(
      'single',
      '{"to":{"users":["b","a"]},"type":"t","data":{ "n" : 1.0 }}',
    );
    expect(users).toEqual(['b', 'a']);
    expect(drafts.map(({ to, data, size }) => ({ to, data, size }))).toEqual([
      { to: { user: 'b' }, data: '{"n":1.0}', size: 9 },
      { to: { user: 'a' }, data: '{"n":1.0}', size: 9 },
    ]);
    expect(new Set(drafts.map(({ id }) => id)).size).toBe(2);
  });

  test('the members of data that have the names of the envelope stay data', async () => {
    const { drafts } = await read(
      'single',
      '{"data":{"data":1,"to":2,"to":3},"type":"t","to":{"everyone":true}}',
    );
    expect(drafts[0]?.data).toBe('{"data":1,"to":2,"to":3}');
  });

  test('in a batch every item keeps its own data, and users stand where their item stands', async () => {
    const { drafts } = await read(
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

  test('size is counted in bytes and without white space', async () => {
    expect((await read('single', '{"to":{"user":"a"},"type":"t","data":[ "é" ]}')).drafts[0]?.size).toBe(6);
  });

  test.each([
    ['a time with an offset', '"expiresAt":"2026-12-01T01:00:00+01:00"', Date.UTC(2026, 11, 1)],
    ['seconds from now', '"ttlSeconds":90', NOW + 90_000],
    [
      'the last moment of the calendar',
      '"expiresAt":"9999-12-31T23:59:59.999Z"',
      Date.UTC(9999, 11, 31, 23, 59, 59, 999),
    ],
  ])('expiry as %s', async (_, member, expected) => {
    expect(
      (await read('single', `{"to":{"user":"a"},"type":"t","data":1,${member}}`)).drafts[0]?.expiresAt,
    ).toBe(expected);
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
  ])('%s', async (_, body, expected) => {
    expect(pointers(await refusalOf('single', body))).toEqual(expected);
  });

  test('in a batch, with the place of the item', async () => {
    const body =
      '{"notifications":[{"to":{"user":"a"},"type":"t","data":1},{"to":{"user":"a"},"type":"t","data":1,"data":1}]}';
    expect(pointers(await refusalOf('batch', body))).toEqual(['/notifications/1/data']);
    expect(
      pointers(
        await refusalOf(
          'batch',
          '{"notifications":[],"notifications":[{"to":{"user":"a"},"type":"t","data":1}]}',
        ),
      ),
    ).toEqual(['/notifications']);
  });

  test('data over the limits, with what was counted', async () => {
    const limits = { MAX_DATA_BYTES: '4', MAX_DATA_DEPTH: 2 };
    const refusal = await refusalOf('single', '{"to":{"user":"a"},"type":"t","data":[[[ 1 ]]]}', limits);
    expect(refusal.errors).toEqual([
      { pointer: '/data', detail: expect.stringContaining('7 bytes') },
      { pointer: '/data', detail: expect.stringContaining('3 levels') },
    ]);
    expect(
      (await read('single', '{"to":{"user":"a"},"type":"t","data":[[]] }', limits)).refusal,
    ).toBeUndefined();
  });

  test('more than the burst of the tenant, which no waiting would let pass', async () => {
    const settings = { NOTIFICATIONS_PER_SECOND: '1', NOTIFICATIONS_BURST_SECONDS: 2 };
    const refusal = await refusalOf('single', '{"to":{"users":["a","b","c"]},"type":"t","data":1}', settings);
    expect(refusal.errors).toEqual([
      { pointer: '/to/users', detail: expect.stringContaining('makes 3 notifications; at most 2 ') },
    ]);
  });

  test('more than the limit after expansion, also when single items are small', async () => {
    const limits = { MAX_NOTIFICATIONS_PER_REQUEST: 3 };
    const item = '{"to":{"users":["a","b"]},"type":"t","data":1}';
    expect(pointers(await refusalOf('batch', `{"notifications":[${item},${item}]}`, limits))).toEqual([
      '/notifications',
    ]);
    expect(
      pointers(await refusalOf('single', '{"to":{"users":["a","b","c","d"]},"type":"t","data":1}', limits)),
    ).toEqual(['/to/users']);
    expect(
      (await read('batch', `{"notifications":[${item},{"to":{"user":"a"},"type":"t","data":1}]}`, limits))
        .refusal,
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

describe('a text that nobody has parsed', () => {
  const item = (data: string) =>
    `{"to": {"users":["a","b\\u00e9"]}, "type" :"t","data":${data}, "ttlSeconds":90}`;
  const json = fc.json({ maxDepth: 4 });

  test.each<PublishRoute>(['single', 'batch'])('is read as JSON.parse reads it: %s', async (route) => {
    await fc.assert(
      fc.asyncProperty(fc.array(json, { minLength: 1, maxLength: 3 }), async (all) => {
        const text =
          route === 'single' ? item(all[0] ?? '') : `{"notifications":[${all.map(item).join(' ,')}]}`;
        const { drafts } = await read(route, text);
        const given = route === 'single' ? all.slice(0, 1) : all;
        expect(drafts.map(({ data }) => JSON.parse(data) as unknown)).toEqual(
          given.flatMap((data) => [JSON.parse(data) as unknown, JSON.parse(data) as unknown]),
        );
      }),
    );
  });

  test.each<PublishRoute>(['single', 'batch'])(
    'is refused where JSON.parse would not read it: %s',
    async (route) => {
      const mutated = fc.tuple(
        json,
        fc.nat(),
        fc.constantFrom('', '"', '{', '}', '[', ']', ',', ':', '\\', ' ', '0', 'x', '\n'),
      );
      await fc.assert(
        fc.asyncProperty(mutated, async ([data, at, change]) => {
          const whole = route === 'single' ? item(data) : `{"notifications":[${item(data)},${item('1')}]}`;
          const place = at % whole.length;
          const text = `${whole.slice(0, place)}${change}${whole.slice(place + 1)}`;
          fc.pre(!isJson(text));
          const { code } = await refusalOf(route, text);
          expect(['malformed_json', 'validation_failed']).toContain(code);
        }),
        { numRuns: 500 },
      );
    },
  );

  describe('that is large', () => {
    let walked = 0;
    const charCodeAt: (this: string, at: number) => number = Reflect.get(String.prototype, 'charCodeAt');
    // By hand, since a spy would keep millions of calls.
    beforeEach(() => {
      Reflect.set(String.prototype, 'charCodeAt', function (this: string, at: number): unknown {
        walked += 1;
        return Reflect.apply(charCodeAt, this, [at]);
      });
    });
    afterEach(() => {
      Reflect.set(String.prototype, 'charCodeAt', charCodeAt);
      jest.restoreAllMocks();
    });

    /** Far less than the texts below have; a few times what one walk takes at once, since walks follow one another. */
    const MOST_AT_ONCE = 100_000;
    const LENGTH = 400_000;
    const filled = (unit: string) => unit.repeat(Math.ceil(LENGTH / unit.length));
    const single = (data: string) => `{"to":{"user":"a"},"type":"t","data":${data}}`;

    test.each<[string, PublishRoute, string]>([
      [
        'a batch of notifications',
        'batch',
        `{"notifications":[${filled(`${item(`[${'1 , '.repeat(15_000)}1]`)},`)}${item('1')}]}`,
      ],
      ['elements of a batch', 'batch', `{"notifications":[${filled('[],')}1]}`],
      ['a batch that is none', 'batch', filled('[')],
      ['elements', 'single', single(`[${filled('[],')}1]`)],
      ['white space between elements', 'single', single(`[${filled('1 ')}1]`)],
      ['white space in one place', 'single', single(`[${filled(' ')}1]`)],
      ['white space around', 'single', `${filled(' ')}${single('1')}${filled('\n')}`],
      [
        'white space beside a name',
        'single',
        `{${filled(' ')}"data"${filled(' ')}:${filled(' ')}1${filled(' ')}}`,
      ],
      ['a string', 'single', single(`"${filled('x')}"`)],
      ['a string of escapes', 'single', single(`"${filled('\\n')}"`)],
      ['a name', 'single', `{"${filled('x')}":1}`],
      ['a string without end', 'single', `{"data":"${filled('x')}`],
      ['brackets without end', 'single', filled('[')],
    ])('is walked a part at a time, and others are served between them: %s', async (_what, route, text) => {
      const parts: number[] = [];
      walked = 0;
      const end = () => {
        parts.push(walked);
        walked = 0;
      };
      jest.spyOn(TimeSlicer.prototype, 'isOver', 'get').mockReturnValue(true);
      jest.spyOn(TimeSlicer.prototype, 'next').mockImplementation(async () => end());
      await read(route, text).catch(() => undefined);
      end();
      expect(parts.reduce((sum, part) => sum + part)).toBeGreaterThan(LENGTH / 2);
      expect(Math.max(...parts)).toBeLessThan(MOST_AT_ONCE);
    });
  });
});

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
