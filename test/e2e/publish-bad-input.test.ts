import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { TimeSlicer } from '../../src/concurrency/pacing.ts';
import { post, publish, type Answer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { serviceToken } from '../support/tokens.ts';

interface ProblemBody {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  errors?: { pointer: string; detail: string }[];
}

let service: Service;
let url: string;
beforeAll(async () => {
  service = await startService();
  url = `${service.url}/v1/notifications`;
});
afterAll(async () => {
  // Whatever was refused in this file, nothing of it is in the log.
  expect(await service.database.query('select tenant_id, type from notifications')).toEqual([]);
  expect(await service.database.query('select key from idempotency_keys')).toEqual([]);
  await service.close();
});

const publisher = serviceToken();
const good = { to: { user: 'a' }, type: 't', data: 1 };
const wrong = (changes: Record<string, unknown>) => JSON.stringify({ ...good, ...changes });
const many = (count: number) => Array.from({ length: count }, (_, i) => `u${i}`);

/** What is true of every error. */
function expectProblem(
  { status, headers, body }: Answer<ProblemBody>,
  expected: { status: number; code: string; pointers?: string[] },
) {
  expect({ status, code: body.code, pointers: body.errors?.map(({ pointer }) => pointer) }).toEqual({
    pointers: undefined,
    ...expected,
  });
  expect(headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(body).toMatchObject({
    type: `/docs/errors#${expected.code}`,
    title: expect.any(String),
    status,
    detail: expect.any(String),
  });
  expect(JSON.stringify(body)).not.toMatch(
    /select |insert |relation|constraint|node_modules|\bat .*:\d+:\d+|zod/i,
  );
  for (const { detail } of body.errors ?? []) expect(detail).not.toBe('');
}

const send = async (body: string | Buffer, headers: Record<string, string> = {}, path = '') =>
  await post<ProblemBody>(`${url}${path}`, publisher, body, headers);

describe('a body that cannot be read', () => {
  test.each<[string, string | Buffer, string]>([
    ['is empty', '', 'malformed_json'],
    ['is white space', ' \n', 'malformed_json'],
    ['is not JSON', '{"to":', 'malformed_json'],
    ['has something behind its end', '{}{}', 'malformed_json'],
    ['has single quotes', "{'to': 1}", 'malformed_json'],
    ['has a raw line break in a string', '{"to":{"user":"a\nb"},"type":"t","data":1}', 'malformed_json'],
    [
      'is not UTF-8',
      Buffer.from([...Buffer.from('{"to":{"user":"a"},"type":"t","data":"'), 0xff, ...Buffer.from('"}')]),
      'malformed_json',
    ],
    [
      'has a surrogate in UTF-8',
      Buffer.from([
        ...Buffer.from('{"to":{"user":"a"},"type":"t","data":"'),
        0xed,
        0xa0,
        0x80,
        ...Buffer.from('"}'),
      ]),
      'malformed_json',
    ],
    ['ends in the middle of a character', Buffer.from([...Buffer.from('{"to":"'), 0xc3]), 'malformed_json'],
  ])('%s', async (_, body, code) => {
    const answer = await send(body);
    expectProblem(answer, { status: 400, code });
    // The text around a fault may be anybody's data.
    expect(answer.body.detail).not.toContain('user');
  });

  test('is larger than MAX_REQUEST_BYTES', async () => {
    const answer = await send(wrong({ data: 'x'.repeat(8 * 1024 * 1024) }));
    expectProblem(answer, { status: 413, code: 'body_too_large' });
  });

  test.each([
    'text/plain',
    'application/x-www-form-urlencoded',
    'application/jsonp',
    'multipart/form-data; boundary=x',
    '',
  ])('is sent as "%s"', async (type) => {
    expectProblem(await send(JSON.stringify(good), { 'content-type': type }), {
      status: 415,
      code: 'unsupported_media_type',
    });
  });

  test('application/json with a charset is JSON', async () => {
    const answer = await post(url, publisher, '{}', { 'content-type': 'application/json; charset=utf-8' });
    expect(answer.body).toMatchObject({ code: 'validation_failed' });
  });
});

describe('a single publish', () => {
  test.each<[string, string, string[]]>([
    ['that is no object', '[]', ['']],
    ['that is null', 'null', ['']],
    ['with nothing in it', '{}', ['/to', '/type', '/data']],
    ['without data', '{"to":{"user":"a"},"type":"t"}', ['/data']],
    ['with a field that is not known', wrong({ extra: 1 }), ['/extra']],
    ['with another tenant', wrong({ tenant_id: 'other' }), ['/tenant_id']],
    ['with a field whose name has a slash and a tilde', wrong({ 'a/b~c': 1 }), ['/a~1b~0c']],
    ['with __proto__', '{"to":{"user":"a"},"type":"t","data":1,"__proto__":{}}', ['/__proto__']],
    ['with an unknown field in `to`', wrong({ to: { user: 'a', tenant: 'b' } }), ['/to/tenant']],
    ['to two targets', wrong({ to: { user: 'a', topic: 'b' } }), ['/to']],
    ['to no target', wrong({ to: {} }), ['/to']],
    ['to not everyone', wrong({ to: { everyone: false } }), ['/to/everyone']],
    ['to a list', wrong({ to: ['a'] }), ['/to']],
    ['to a user that is a number', wrong({ to: { user: 42 } }), ['/to/user']],
    ['to the empty user', wrong({ to: { user: '' } }), ['/to/user']],
    ['to a user of 257 characters', wrong({ to: { user: 'x'.repeat(257) } }), ['/to/user']],
    ['to a user with a control character', wrong({ to: { user: 'a\u0007' } }), ['/to/user']],
    ['to a user with a NUL', wrong({ to: { user: 'a\u0000' } }), ['/to/user']],
    ['to a user with a C1 control', wrong({ to: { user: 'a\u0085' } }), ['/to/user']],
    ['to a user with half a surrogate pair', '{"to":{"user":"\\ud83e"},"type":"t","data":1}', ['/to/user']],
    [
      'to a topic with half a surrogate pair',
      '{"to":{"topic":"\\udd80"},"type":"t","data":1}',
      ['/to/topic'],
    ],
    ['to the empty topic', wrong({ to: { topic: '' } }), ['/to/topic']],
    ['to no users', wrong({ to: { users: [] } }), ['/to/users']],
    ['to a user twice', wrong({ to: { users: ['a', 'b', 'a'] } }), ['/to/users/2']],
    ['to users of which one is wrong', wrong({ to: { users: ['a', '', 'b'] } }), ['/to/users/1']],
    ['to 1,001 users', wrong({ to: { users: many(1_001) } }), ['/to/users']],
    ['of no type', wrong({ type: '' }), ['/type']],
    ['of a type with a space', wrong({ type: 'a b' }), ['/type']],
    ['of a type with a line break at its end', wrong({ type: 'a\n' }), ['/type']],
    ['of a type of 129 characters', wrong({ type: 'x'.repeat(129) }), ['/type']],
    ['of a type in another script', wrong({ type: 'é' }), ['/type']],
    ['with data of more than 64,000 bytes', wrong({ data: 'x'.repeat(64_000) }), ['/data']],
    [
      'with data of 101 levels',
      `{"to":{"user":"a"},"type":"t","data":${'['.repeat(101)}${']'.repeat(101)}}`,
      ['/data'],
    ],
    [
      'with data of 30,000 levels',
      `{"to":{"user":"a"},"type":"t","data":${'['.repeat(30_000)}${']'.repeat(30_000)}}`,
      ['/data'],
    ],
    ['with data twice', '{"to":{"user":"a"},"type":"t","data":1,"data":2}', ['/data']],
    ['with `to` twice', '{"to":{"user":"a"},"to":{"user":"b"},"type":"t","data":1}', ['/to']],
    ['that has expired', wrong({ expiresAt: '2020-01-01T00:00:00.000Z' }), ['/expiresAt']],
    ['that expires on a day that is none', wrong({ expiresAt: '2099-02-30T00:00:00.000Z' }), ['/expiresAt']],
    ['that expires without a time zone', wrong({ expiresAt: '2099-01-01T00:00:00' }), ['/expiresAt']],
    ['that expires on a date', wrong({ expiresAt: '2099-01-01' }), ['/expiresAt']],
    ['that expires at a number', wrong({ expiresAt: 4_000_000_000 }), ['/expiresAt']],
    ['that expires in the year 10000', wrong({ expiresAt: '9999-12-31T23:59:59-12:00' }), ['/expiresAt']],
    [
      'with both forms of expiry',
      wrong({ expiresAt: '2099-01-01T00:00:00.000Z', ttlSeconds: 60 }),
      ['/ttlSeconds'],
    ],
    ['with an expiry of 0 seconds', wrong({ ttlSeconds: 0 }), ['/ttlSeconds']],
    ['with an expiry of part of a second', wrong({ ttlSeconds: 1.5 }), ['/ttlSeconds']],
    ['with an expiry beyond all calendars', wrong({ ttlSeconds: 1e12 }), ['/ttlSeconds']],
    ['with an expiry in words', wrong({ ttlSeconds: '60' }), ['/ttlSeconds']],
    ['with an inbox in words', wrong({ inbox: 'false' }), ['/inbox']],
    ['with an inbox that is a number', wrong({ inbox: 0 }), ['/inbox']],
    ['with an inbox that is null', wrong({ inbox: null }), ['/inbox']],
    ['with an inbox twice', '{"to":{"user":"a"},"type":"t","data":1,"inbox":true,"inbox":false}', ['/inbox']],
  ])('%s', async (_, body, pointers) => {
    expectProblem(await send(body), { status: 400, code: 'validation_failed', pointers });
  });

  test('names every fault, each with its place', async () => {
    const answer = await send(wrong({ type: '', to: { user: '' }, extra: 1 }));
    expectProblem(answer, {
      status: 400,
      code: 'validation_failed',
      pointers: expect.arrayContaining(['/to/user', '/type', '/extra']) as never,
    });
  });
});

describe('a batch', () => {
  const batch = (...notifications: unknown[]) => JSON.stringify({ notifications });

  test.each<[string, string, string[]]>([
    ['with nothing in it', batch(), ['/notifications']],
    ['that is a list', '[]', ['']],
    ['that is no list', '{"notifications":{}}', ['/notifications']],
    [
      'with a field that is not known',
      '{"notifications":[{"to":{"user":"a"},"type":"t","data":1}],"atomic":true}',
      ['/atomic'],
    ],
    [
      'with an item that has a field that is not known',
      batch(good, { ...good, extra: 1 }),
      ['/notifications/1/extra'],
    ],
    ['with an item that is null', batch(good, null), ['/notifications/1']],
    ['with an item without data', batch(good, { to: { user: 'a' }, type: 't' }), ['/notifications/1/data']],
    [
      'with an item that has data twice',
      '{"notifications":[{"to":{"user":"a"},"type":"t","data":1,"data":1}]}',
      ['/notifications/0/data'],
    ],
    [
      'with an item over the limit',
      batch(good, { ...good, data: 'x'.repeat(64_000) }, good),
      ['/notifications/1/data'],
    ],
    [
      'with an item that has expired',
      batch(good, good, { ...good, expiresAt: '2020-01-01T00:00:00.000Z' }),
      ['/notifications/2/expiresAt'],
    ],
    ['of 1,001', batch(...Array<unknown>(1_001).fill(good)), ['/notifications']],
    ['of 1,001 after expansion', batch({ ...good, to: { users: many(1_000) } }, good), ['/notifications']],
  ])('%s is refused as a whole', async (_, body, pointers) => {
    expectProblem(await send(body, {}, '/batch'), { status: 400, code: 'validation_failed', pointers });
  });
});

describe('around the body', () => {
  test.each(['?dryRun=true', '?tenant=other', '?to=b'])('the query %s is not known', async (query) => {
    const pointer = `/${query.slice(1).split('=')[0]}`;
    expectProblem(await send(JSON.stringify(good), {}, query), {
      status: 400,
      code: 'validation_failed',
      pointers: [pointer],
    });
  });

  test.each(['', ' ', 'two words', 'é', 'x'.repeat(256)])('the Idempotency-Key "%s" is none', async (key) => {
    const answer = await send(JSON.stringify(good), {
      'idempotency-key': Buffer.from(key).toString('latin1'),
    });
    expectProblem(answer, { status: 400, code: 'validation_failed', pointers: ['/Idempotency-Key'] });
  });

  test('a path that is not there is 404, and a method that a path does not take is 405 with those that it takes', async () => {
    for (const path of ['/batch/more', '/%zz', `/${'x'.repeat(300)}`]) {
      expectProblem(await send('{}', {}, path), { status: 404, code: 'not_found' });
    }
    const response = await fetch(`${url}?x=1`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${publisher}` },
    });
    expectProblem(
      { status: response.status, headers: response.headers, body: (await response.json()) as ProblemBody },
      { status: 405, code: 'method_not_allowed' },
    );
    expect(response.headers.get('allow')?.split(', ')).toContain('POST');
  });
});

test('a body full of faults is answered with the first of them, and others are served meanwhile', async () => {
  // Whenever it has taken its few milliseconds, it lets others go first.
  const turns = jest.spyOn(TimeSlicer.prototype, 'next');
  const answer = await send(JSON.stringify({ ...good, to: { users: Array(1_500_000).fill('') } }));
  expect(turns.mock.calls.length).toBeGreaterThan(0);
  turns.mockRestore();
  expect(answer.status).toBe(400);
  expect(answer.body.errors?.length).toBeLessThanOrEqual(100);
  const keys = await send(JSON.stringify(Object.fromEntries(many(300_000).map((name) => [name, 1]))));
  expect(keys.status).toBe(400);
  expect(keys.body.errors).toHaveLength(100);
});

test('at the limits nothing is refused', async () => {
  const other = serviceToken({ tenant: 'limits' });
  const store = async (notification: Record<string, unknown>) =>
    await publish(service.url, other, { ...good, ...notification });
  await store({ to: { user: '\u{1f980}'.repeat(256) }, type: `${'x'.repeat(124)}._:-` });
  await store({ data: 'x'.repeat(64_000 - 2) });
  const deep = await post(
    url,
    other,
    `{"to":{"user":"a"},"type":"t","data":${'[ '.repeat(100)}${' ]'.repeat(100)}}`,
  );
  expect(deep.status).toBe(201);
  const crowd = await post<{ notifications: unknown[] }>(url, other, { ...good, to: { users: many(1_000) } });
  expect(crowd.body.notifications).toHaveLength(1_000);
  const key = await post(url, other, good, { 'idempotency-key': '!'.repeat(255) });
  expect(key.status).toBe(201);
  await service.database.query(`delete from notifications where tenant_id = 'limits'`);
  await service.database.query(`delete from idempotency_keys where tenant_id = 'limits'`);
});
