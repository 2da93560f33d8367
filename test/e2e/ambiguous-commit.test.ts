import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { AppendStore, type Publication } from '../../src/log/append.store.ts';
import { get, post, type Answer, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { BreakingProxy, type Loss } from '../support/breaking-proxy.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { draft } from '../support/notifications.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * The connection to the database dies while a publish is being committed. The service cannot know what became of it,
 * the publisher must not have to care, and the log must hold it once.
 */

const USER = 'ann';
const token = userToken({ user: USER });
const publisher = serviceToken();
const to = { user: USER };

let database: TestDatabase;
let proxy: BreakingProxy;
let service: Service;
/** Sessions that hold a lock; a test that fails leaves its own behind. */
let holders: pg.Client[] = [];

beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  proxy = await BreakingProxy.start(database);
  service = await startService({ LOG_POLL_MS: 200 }, { database: { ...database, urls: proxy.urls } });
  await send({ notification: 'the tenant and all prepared statements are there' });
});
afterEach(async () => {
  await Promise.all(holders.map((holder) => holder.end()));
  holders = [];
  await service.close();
  await proxy.close();
});

interface LogRow {
  id: string;
  position: string;
  data: string;
}

/** The log of the tenant as the database has it. */
const log = () =>
  database.query<LogRow & pg.QueryResultRow>(
    `select id, position::text, data from notifications where tenant_id = 'acme' order by position`,
  );

/** Where this content is in the log. */
const storedAs = async (data: unknown) => (await log()).filter((row) => row.data === JSON.stringify(data));

const send = (data: unknown, key?: string) =>
  post<StoredAnswer>(
    `${service.url}/v1/notifications`,
    publisher,
    { to, type: 'test', data },
    key === undefined ? {} : { 'idempotency-key': key },
  );

const sendBatch = (data: readonly unknown[], key?: string) =>
  post<{ notifications: StoredAnswer[] }>(
    `${service.url}/v1/notifications/batch`,
    publisher,
    { notifications: data.map((one) => ({ to, type: 'test', data: one })) },
    key === undefined ? {} : { 'idempotency-key': key },
  );

const openStream = async () => {
  const stream = await StreamClient.open(service.url, token, { query: { from: 'latest' } });
  await stream.untilEvent('caught-up');
  return stream;
};

/** Keeps appends of the tenant waiting in the database until the answer is called, which runs `meanwhile` first. */
async function holdAppends(meanwhile = 'select'): Promise<() => Promise<void>> {
  const holder = new pg.Client({ connectionString: database.url });
  holders.push(holder);
  await holder.connect();
  await holder.query(`begin; select 1 from tenant_logs where tenant_id = 'acme' for update`);
  return async () => {
    await holder.query(`${meanwhile}; commit`);
  };
}

/** Resolves when so many sessions wait for the lock of the tenant. */
const untilWaiting = (sessions: number) =>
  eventually(async () => {
    const rows = await database.query(
      `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    );
    expect(rows).toHaveLength(sessions);
  });

/** Resolves when so many notifications wait to be appended. */
const untilQueued = (notifications: number) =>
  eventually(async () => {
    const metrics = await (await fetch(`${service.url}/metrics`)).text();
    expect(metrics).toContain(`\ntidings_ingest_queue ${notifications}\n`);
  });

const LOSSES: readonly (readonly [Loss, string])[] = [
  ['answer', 'it was committed, and the answer is lost'],
  ['statement', 'the statement is lost'],
  ['late', 'the statement arrives after its connection was given up'],
];

describe.each(LOSSES)('when the connection dies under an append and (%s) %s', (loss) => {
  const afterwards = async () => {
    if (loss === 'late') await proxy.arriveLate();
  };

  test.each([undefined, `key-of-${loss}`])(
    'a publish is answered 201 with its place in the log, where it is once (key: %s)',
    async (key) => {
      const data = { single: loss, key };
      const stream = await openStream();
      const lost = proxy.lose(loss, 'append');
      const { status, body } = await send(data, key);
      await lost;
      expect(status).toBe(201);
      await afterwards();
      const rows = await storedAs(data);
      expect(rows.map(({ id, position }) => ({ id, position }))).toEqual([
        { id: body.id, position: body.position },
      ]);

      // What follows is behind it for the stream too, and nothing comes twice.
      const next = await send({ after: data });
      const got = await stream.untilNotifications(2);
      expect(got.map(({ id }) => id)).toEqual([body.id, next.body.id]);
      expect(next.status).toBe(201);
      await stream.cut();
    },
  );

  test('nobody publishes again, and a stream that is open gets it all the same', async () => {
    const stream = await openStream();
    const lost = proxy.lose(loss, 'append');
    const { body } = await send({ healed: loss });
    await lost;
    await afterwards();
    const [got] = await stream.untilNotifications(1);
    expect(got).toMatchObject({ id: body.id, position: body.position });
    await stream.cut();
  });

  test('everyone whose publish was in the same append gets the place of it', async () => {
    const stream = await openStream();
    const before = await log();
    const release = await holdAppends();
    const first = send({ batch: loss, first: true });
    await untilWaiting(1);
    const rest = [
      send({ batch: loss, single: true }),
      send({ batch: loss, keyed: true }, `single-of-${loss}`),
      sendBatch([
        { batch: loss, n: 0 },
        { batch: loss, n: 1 },
        { batch: loss, n: 2 },
      ]),
      sendBatch(
        [
          { batch: loss, keyed: 0 },
          { batch: loss, keyed: 1 },
        ],
        `batch-of-${loss}`,
      ),
      send({ batch: loss, keyed: true, last: true }, `last-of-${loss}`),
    ];
    await untilQueued(1 + 8);
    // The first is on its way already; the next append is that of the others.
    const lost = proxy.lose(loss, 'append');
    await release();
    const answers: Answer<StoredAnswer | { notifications: StoredAnswer[] }>[] = await Promise.all([
      first,
      ...rest,
    ]);
    await lost;
    await afterwards();

    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 201));
    const answered = answers.flatMap(({ body }) => ('notifications' in body ? body.notifications : [body]));
    const rows = (await log()).slice(before.length);
    const byPosition = (a: { position: string }, b: { position: string }) =>
      Number(a.position) - Number(b.position);
    expect(rows.map(({ id, position }) => ({ id, position }))).toEqual(
      answered.map(({ id, position }) => ({ id, position })).sort(byPosition),
    );
    // And the one before this test.
    const metrics = await (await fetch(`${service.url}/metrics`)).text();
    expect(metrics).toContain(`\ntidings_published_total ${1 + rows.length}\n`);
    const got = await stream.untilNotifications(rows.length);
    expect(got.map(({ id }) => id)).toEqual(rows.map(({ id }) => id));
    await stream.cut();
  });

  test('the very first publish of a tenant is stored once', async () => {
    const tenant = `new-${loss}`;
    const lost = proxy.lose(loss, 'append');
    const { status, body } = await post<StoredAnswer>(
      `${service.url}/v1/notifications`,
      serviceToken({ tenant }),
      { to, type: 'test', data: 'first' },
    );
    await lost;
    await afterwards();
    expect(status).toBe(201);
    const rows = await database.query('select id, position::text from notifications where tenant_id = $1', [
      tenant,
    ]);
    expect(rows).toEqual([{ id: body.id, position: body.position }]);
  });

  test('and the database stays away, the publish is refused, and its repetition is stored once', async () => {
    const key = `stays-away-after-${loss}`;
    const data = { key };
    const stream = await openStream();
    const lost = proxy.lose(loss, 'append', { away: true });
    const refused = await send(data, key);
    await lost;
    expect(refused.status).toBe(503);
    expect(refused.body).toMatchObject({ code: 'database_unavailable' });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);

    proxy.away = false;
    await afterwards();
    const { status, headers, body } = await send(data, key);
    expect(status).toBe(201);
    expect(headers.get('idempotency-replayed')).toBe(loss === 'statement' ? null : 'true');
    const rows = await storedAs(data);
    expect(rows).toMatchObject([{ id: body.id, position: body.position }]);
    const [got] = await stream.untilNotifications(1);
    expect(got).toMatchObject({ id: body.id, position: body.position });
    await stream.cut();
  });
});

test('an append that still waits in the database when its connection dies is waited for', async () => {
  const data = { waits: 'for the lock of its tenant' };
  const release = await holdAppends();
  const sent = send(data);
  await untilWaiting(1);
  proxy.cut();
  // The append whose client has gone, and the question what became of it.
  await untilWaiting(2);
  await release();
  const { status, body } = await sent;
  expect(status).toBe(201);
  await eventually(async () =>
    expect(
      await database.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
      ),
    ).toEqual([]),
  );
  expect(await storedAs(data)).toMatchObject([{ id: body.id, position: body.position }]);
});

test('idle connections that died with it do not keep the service from asking what became of an append', async () => {
  const data = { dies: 'with all that lay idle' };
  // As many connections as the pool has, each of another tenant.
  const tenants = ['one', 'two', 'three', 'four'];
  await Promise.all(
    tenants.map((tenant) =>
      post(`${service.url}/v1/notifications`, serviceToken({ tenant }), { to, type: 'test', data }),
    ),
  );
  const release = await holdAppends();
  const sent = send(data);
  await untilWaiting(1);
  proxy.cutBusy();
  await untilWaiting(2);
  await release();
  const { status, body } = await sent;
  expect(status).toBe(201);
  expect(await storedAs(data)).toMatchObject([{ id: body.id, position: body.position }]);
});

test('an append that waits for the lock while it is abandoned stores nothing', async () => {
  const append = randomUUID();
  const publication: Publication = {
    publisher: 'billing',
    drafts: [draft()],
    idempotency: { publisher: 'billing', key: 'abandoned', fingerprint: Buffer.alloc(32) },
  };
  const before = await log();
  const release = await holdAppends(`update tenant_logs set abandoned = array['${append}'::uuid]`);
  const appended = service.app
    .get(AppendStore)
    .append(tenantIdSchema.parse('acme'), [publication], append, 1);
  await untilWaiting(1);
  await release();
  expect(await appended).toBeUndefined();
  expect(await log()).toEqual(before);
  expect(await database.query(`select from idempotency_keys where key = 'abandoned'`)).toEqual([]);
});

test('an acknowledgement whose answer is lost is answered 204 and stored once', async () => {
  const stream = await openStream();
  const { body } = await send({ acknowledged: true });
  await stream.untilNotifications(1);
  for (const loss of ['answer', 'statement'] as const) {
    const lost = proxy.lose(loss, 'acknowledge');
    const { status } = await post(`${service.url}/v1/acks`, token, { upTo: body.position });
    await lost;
    expect(status).toBe(204);
  }
  const acks = await database.query(
    `select to_position::text as up_to from acks where tenant_id = 'acme' and to_position = $1`,
    [body.position],
  );
  expect(acks).toEqual([{ up_to: body.position }]);
  expect((await get(`${service.url}/health/live`, token)).status).toBe(200);
  await stream.cut();
});
