import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { post, type Answer, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { holding } from '../support/privacy.ts';
import { serviceToken } from '../support/tokens.ts';

let service: Service;
/** Another node on the same database, with limits that were lowered. */
let strict: Service;
beforeAll(async () => {
  service = await startService();
  strict = await startService(
    { MAX_DATA_BYTES: '10', MAX_NOTIFICATIONS_PER_REQUEST: 1, NODE_NAME: 'strict' },
    { database: service.database },
  );
});
afterAll(async () => {
  await strict.close();
  await service.close();
});

let keys = 0;
const freshKey = () => `key-${(keys += 1)}`;
const body = (changes: Record<string, unknown> = {}) => ({
  to: { user: 'a' },
  type: 't',
  data: 'more than ten bytes',
  ...changes,
});

interface SendOptions {
  on?: Service;
  token?: string;
  path?: string;
}

async function send(
  key: string,
  payload: unknown,
  { on = service, token = serviceToken(), path = '' }: SendOptions = {},
) {
  return await post(`${on.url}/v1/notifications${path}`, token, payload, { 'idempotency-key': key });
}

const stored = async (tenant = 'acme') => {
  const [row] = await service.database.query<{ count: number }>(
    'select count(*)::int as count from notifications where tenant_id = $1',
    [tenant],
  );
  return row?.count ?? 0;
};

/** Ever longer lives, in ms: one of them is long enough on this machine to publish something before it expires. */
function* lives(): Generator<number, never> {
  for (let life = 500; ; life *= 2) yield life;
}

/** The same answer again, marked as such, and nothing new in the log. */
function expectReplay(answer: Answer, first: Answer) {
  expect(answer.headers.get('idempotency-replayed')).toBe('true');
  expect({ status: answer.status, body: answer.body, location: answer.headers.get('location') }).toEqual({
    status: 201,
    body: first.body,
    location: first.headers.get('location'),
  });
}

const FORMS: [string, string, unknown][] = [
  ['a single publish', '', body()],
  ['users', '', body({ to: { users: ['b', 'a', 'c'] } })],
  ['a batch', '/batch', { notifications: [body(), body({ to: { users: ['a', 'b'] } })] }],
];

describe('the same request again', () => {
  test.each(FORMS)('%s gets the first answer and stores nothing', async (_, path, payload) => {
    const key = freshKey();
    const first = await send(key, payload, { path });
    expect(first.status).toBe(201);
    expect(first.headers.has('idempotency-replayed')).toBe(false);
    const count = await stored();
    expectReplay(await send(key, payload, { path }), first);
    expect(await stored()).toBe(count);
  });

  test.each(FORMS)(
    '%s gets it on another node, also when limits there would refuse it',
    async (_, path, payload) => {
      const key = freshKey();
      const first = await send(key, payload, { path });
      expectReplay(await send(key, payload, { path, on: strict }), first);
      const refused = await send(freshKey(), payload, { path, on: strict });
      expect(refused.status).toBe(400);
    },
  );

  test('gets it when it would have expired by now', async () => {
    for (const life of lives()) {
      const key = freshKey();
      const payload = body({ expiresAt: new Date(Date.now() + life).toISOString() });
      const first = await send(key, payload);
      if (first.status === 400) continue;
      expect(first.status).toBe(201);
      await eventually(async () => expect((await send(freshKey(), payload)).status).toBe(400), { every: 50 });
      expectReplay(await send(key, payload), first);
      break;
    }
  });
});

describe('another request under a key that was used', () => {
  test.each([
    ['another body', body({ data: 'b' }), ''],
    ['the same value in other bytes', JSON.stringify(body(), null, 1), ''],
    ['another route', { notifications: [body()] }, '/batch'],
    ['a body that a limit refuses', body({ data: 'x'.repeat(70_000) }), ''],
  ])('%s is 422 and stores nothing', async (_, payload, path) => {
    const key = freshKey();
    await send(key, body());
    const count = await stored();
    const answer = await send(key, payload, { path });
    expect(answer).toMatchObject({ status: 422, body: { code: 'idempotency_mismatch' } });
    expect(await stored()).toBe(count);
  });

  test('the first answer stays', async () => {
    const key = freshKey();
    const first = await send(key, body());
    await send(key, body({ data: 'other' }));
    expectReplay(await send(key, body()), first);
  });
});

describe('a key belongs to', () => {
  test.each([
    ['a publisher', serviceToken({ client: 'another' })],
    ['a tenant', serviceToken({ tenant: 'another' })],
  ])('%s: the same key of another is independent', async (_, token) => {
    const key = freshKey();
    const first = await send(key, body());
    const other = await send(key, body({ data: 'another body, too' }), { token });
    expect(other.status).toBe(201);
    expect(other.headers.has('idempotency-replayed')).toBe(false);
    expect(other.body['id']).not.toBe(first.body['id']);
  });
});

describe('twins at the same time', () => {
  const twins = async (key: string, nodes: readonly Service[], count: number) =>
    await Promise.all(
      Array.from(
        { length: count },
        async (_, i) => await send(key, body({ data: 'short' }), { on: nodes[i % nodes.length] ?? service }),
      ),
    );

  test.each([
    ['on one node', () => [service]],
    ['on two nodes', () => [service, strict]],
  ])('%s are stored once and answered alike', async (_, nodes) => {
    for (let round = 0; round < 5; round += 1) {
      const count = await stored();
      const answers = await twins(freshKey(), nodes(), 20);
      expect(
        new Set(answers.map(({ status, body: answer }) => `${status} ${JSON.stringify(answer)}`)).size,
      ).toBe(1);
      expect(answers[0]?.status).toBe(201);
      expect(answers.filter(({ headers }) => !headers.has('idempotency-replayed'))).toHaveLength(1);
      expect(await stored()).toBe(count + 1);
    }
  });

  test('with another body get 422', async () => {
    const key = freshKey();
    const answers = await Promise.all([
      send(key, body()),
      ...Array.from({ length: 5 }, async () => await send(key, body({ data: 'other' }))),
    ]);
    const statuses = answers.map(({ status }) => status).toSorted((a, b) => a - b);
    expect(new Set(statuses)).toEqual(new Set([201, 422]));
    const ids = answers.filter(({ status }) => status === 201).map(({ body: answer }) => answer['id']);
    expect(new Set(ids).size).toBe(1);
  });

  test('one that would be refused by now waits for the first, which is still being stored', async () => {
    const tenant = 'slow';
    const token = serviceToken({ tenant });
    await send(freshKey(), body(), { token });
    // Whoever holds the stream's row holds up the append.
    const release = await holding(
      service.database,
      `select from tenant_logs where tenant_id = '${tenant}' for update`,
    );
    for (const life of lives()) {
      const key = freshKey();
      const expiresAt = Date.now() + life;
      const payload = body({ expiresAt: new Date(expiresAt).toISOString() });
      let waits = true;
      const first = send(key, payload, { token }).finally(() => {
        waits = false;
      });
      await eventually(async () => {
        const waiting = await service.database.query(
          `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        );
        expect(waiting.length > 0 || !waits).toBe(true);
      });
      if (!waits) continue;
      await eventually(() => expect(Date.now()).toBeGreaterThan(expiresAt), { every: 50 });
      const second = send(key, payload, { token });
      expect(await Promise.race([second, sleep(500, 'waits')])).toBe('waits');
      await release();
      expectReplay(await second, await first);
      break;
    }
  });
});

test('failures are not remembered', async () => {
  const key = freshKey();
  expect(await send(key, body({ expiresAt: '2020-01-01T00:00:00.000Z' }))).toMatchObject({ status: 400 });
  expect(await send(key, '{"to":')).toMatchObject({ status: 400 });
  const answer = await send(key, body());
  expect(answer.status).toBe(201);
  expect(answer.headers.has('idempotency-replayed')).toBe(false);
});

test('what a replay answers is where it was stored', async () => {
  const key = freshKey();
  const payload = {
    notifications: [body({ type: 'first' }), body({ to: { users: ['x', 'y'] }, type: 'second' })],
  };
  await send(key, payload, { path: '/batch' });
  const replay = await post<{ notifications: StoredAnswer[] }>(
    `${service.url}/v1/notifications/batch`,
    serviceToken(),
    payload,
    { 'idempotency-key': key },
  );
  for (const { id, position, createdAt } of replay.body.notifications) {
    const rows = await service.database.query(
      'select id from notifications where tenant_id = $1 and position = $2',
      ['acme', position],
    );
    expect(rows).toEqual([{ id }]);
    expect(Date.parse(createdAt)).toBeLessThanOrEqual(Date.now() + 1_000);
  }
});
