import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { get, post, type Answer, type StoredAnswer } from '../support/api.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres, type PostgresServer } from '../support/postgres-server.ts';
import { ServiceProcess, startServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * The database goes away under a service that runs. It runs in a process of its own: an error that nobody catches
 * would end it.
 */

/** Processes are started and waited for, one after the other. */
jest.setTimeout(300_000);

const publisher = serviceToken();
const operator = serviceToken({ client: 'desk', scope: 'history:read' });
const ann = userToken({ user: 'ann', topics: ['news'] });

const SETTINGS = { HEARTBEAT_SECONDS: '1', LOG_POLL_MS: 200 };

let postgres: PostgresServer;
let service: ServiceProcess;
let proxy: BreakingProxy | undefined;
let streams: StreamClient[];

beforeAll(async () => {
  postgres = await startPostgres();
});
afterAll(async () => {
  await postgres.remove();
});
beforeEach(() => {
  streams = [];
});
afterEach(async () => {
  await postgres.start();
  for (const stream of streams) await stream.cut();
  await service.end();
  await proxy?.close();
  proxy = undefined;
});

const send = (to: Record<string, unknown>, data: unknown, key?: string) =>
  post<StoredAnswer>(
    `${service.url}/v1/notifications`,
    publisher,
    { to, type: 'test', data },
    key === undefined ? {} : { 'idempotency-key': key },
  );

/** Sends until it is stored, as a publisher does: again after a 503, with the same key. */
const sendUntilStored = (to: Record<string, unknown>, data: unknown, key: string) =>
  eventually(
    async () => {
      const answer = await send(to, data, key);
      expect(answer.status).toBe(201);
      return answer.body;
    },
    { every: 50 },
  );

async function open(token: string, query: Record<string, string> = {}): Promise<StreamClient> {
  const stream = await StreamClient.open(service.url, token, { query });
  streams.push(stream);
  return stream;
}

async function openLive(token: string): Promise<StreamClient> {
  const stream = await open(token);
  await stream.untilEvent('caught-up');
  return stream;
}

/** Runs SQL past the service, on a connection of its own. */
async function sql<Row extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: postgres.url });
  await client.connect();
  try {
    return (await client.query<Row>(text, values)).rows;
  } finally {
    await client.end();
  }
}

/** How often each content is in the log. */
async function copies(): Promise<Map<string, number>> {
  const rows = await sql<{ data: string; n: string }>(
    'select data, count(*) as n from notifications group by data',
  );
  return new Map(rows.map(({ data, n }) => [data, Number(n)]));
}

const ids = (stream: StreamClient) => stream.notifications.map(({ id }) => id);

/** What a stream for this token has to show, by the log. */
async function logOf(user: string, topic: string): Promise<string[]> {
  const rows = await sql<{ id: string }>(
    `select id from notifications where user_id = $1 or topic = $2 or (user_id is null and topic is null) order by position`,
    [user, topic],
  );
  return rows.map(({ id }) => id);
}

const unavailable = ({ status, headers, body }: Answer<object>) => {
  expect({ status, body }).toMatchObject({ status: 503, body: { code: 'database_unavailable' } });
  expect(Number(headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
};

const health = () =>
  get<{ status: string; database: { reachable: boolean } }>(`${service.url}/health/ready`, ann);

test('sessions that are terminated again and again under load cost nobody a notification', async () => {
  service = await startServiceProcess(postgres, SETTINGS);
  const readers = [await openLive(ann), await openLive(userToken({ user: 'bob', topics: ['news'] }))];
  const recipients = [{ user: 'ann' }, { user: 'bob' }, { topic: 'news' }, { everyone: true }];
  const stored: StoredAnswer[] = [];
  const refused: string[] = [];
  const enough = new AbortController();

  const publish = async (worker: number) => {
    for (let n = 0; !enough.signal.aborted; n += 1) {
      const to = recipients[n % recipients.length] ?? {};
      const data = `${worker}-${n}`;
      if (worker % 2 === 0) {
        stored.push(await sendUntilStored(to, data, data));
        continue;
      }
      const answer = await send(to, data);
      if (answer.status === 201) stored.push(answer.body);
      else {
        unavailable(answer);
        refused.push(data);
      }
    }
  };
  const publishing = Promise.all([0, 1, 2, 3, 4, 5].map(publish));
  for (let round = 0; round < 20; round += 1) {
    const before = stored.length;
    await eventually(() =>
      expect({ more: stored.length > before + 10, exit: service.exit }).toEqual({
        more: true,
        exit: undefined,
      }),
    );
    await sql(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'tidings%'`,
    );
  }
  enough.abort();
  await publishing;

  const log = await sql<{ id: string; position: string }>('select id, position::text from notifications');
  const places = new Map(log.map(({ id, position }) => [id, position]));
  expect(places.size).toBe(log.length);
  expect(stored.filter(({ id, position }) => places.get(id) !== position)).toEqual([]);
  const found = await copies();
  expect([...found.values()].filter((n) => n !== 1)).toEqual([]);
  // Beside what was answered 201 there may only be what was answered 503, when not even that could be found out.
  expect(log.length - stored.length).toBeLessThanOrEqual(refused.length);

  for (const [index, user] of ['ann', 'bob'].entries()) {
    const expected = await logOf(user, 'news');
    const stream = readers[index];
    await stream?.untilNotifications(expected.length);
    expect(stream && ids(stream)).toEqual(expected);
    expect(stream?.ended).toBe(false);
  }
  expect(service.exit).toBeUndefined();
  expect(service.stderr).toBe('');
});

describe.each([
  ['stop', 'is stopped'],
  ['kill', 'is killed'],
] as const)('while PostgreSQL %s', (how, does) => {
  test(`(${does}) the service says so, keeps its streams, and goes on by itself afterwards`, async () => {
    service = await startServiceProcess(postgres, {
      ...SETTINGS,
      RECEIPTS_FLUSH_MS: 500,
      // So long that the test would end by its own time limit if anything here waited for it.
      DATABASE_CONNECT_TIMEOUT_MS: '120000',
      DATABASE_STATEMENT_TIMEOUT_MS: '600000',
    });
    const live = await openLive(ann);
    const leaving = await openLive(userToken({ user: 'leaver' }));
    const sync = await leaving.untilEvent('sync');
    const seen = live.notifications.length;
    const before = await sendUntilStored({ user: 'ann' }, `${how} before`, `${how}-before`);
    await live.untilNotifications(seen + 1);
    await postgres[how]();

    // Publishes are refused at once, all of them, and nothing else is.
    const answers = await Promise.all([
      send({ user: 'ann' }, `${how} without a key`),
      send({ user: 'ann' }, `${how} with a key`, `${how}-away`),
      ...Array.from({ length: 20 }, (_, n) => send({ everyone: true }, `${how} in a crowd ${n}`)),
    ]);
    answers.forEach(unavailable);
    unavailable(await post(`${service.url}/v1/acks`, ann, { upTo: before.position }));
    unavailable(await get(`${service.url}/v1/notifications`, operator));
    unavailable(await get(`${service.url}/v1/connections`, operator));
    unavailable(await get(`${service.url}/v1/notifications/${before.id}`, publisher));
    expect((await get(`${service.url}/health/live`, ann)).status).toBe(200);
    expect((await health()).status).toBe(200);
    await eventually(async () =>
      expect((await health()).body).toMatchObject({ status: 'ready', database: { reachable: false } }),
    );
    expect(await (await fetch(`${service.url}/metrics`)).text()).toContain('\ntidings_connections 2\n');

    // Who comes is told to come back; who is here stays.
    const newcomer = await open(ann);
    await newcomer.closed;
    expect(newcomer.status).toBe(200);
    expect(newcomer.events.map(({ event }) => event)).toEqual(['bye']);
    expect(newcomer.named('bye')).toMatchObject([{ reason: 'unavailable', reconnect: true }]);
    expect(newcomer.retries.at(-1)).toBe(newcomer.named('bye')[0]?.['retryAfterMs']);
    const heartbeats = live.comments.length;
    await live.until(() => live.comments.length >= heartbeats + 3, 'three heartbeats');
    await leaving.cut();

    await postgres.start();
    const after = await sendUntilStored({ user: 'ann' }, `${how} with a key`, `${how}-away`);
    const last = await sendUntilStored({ topic: 'news' }, `${how} last`, `${how}-last`);
    await live.untilNotifications(seen + 3);
    expect(ids(live).slice(seen)).toEqual([before.id, after.id, last.id]);
    const found = await copies();
    expect(found.get(JSON.stringify(`${how} with a key`))).toBe(1);
    expect([...found.keys()].filter((data) => /without|crowd/.test(data))).toEqual([]);
    expect((await post(`${service.url}/v1/acks`, ann, { upTo: last.position })).status).toBe(204);
    const again = await openLive(ann);
    expect(again.notifications).toEqual([]);
    await eventually(async () => expect((await health()).body.database).toMatchObject({ reachable: true }));

    // What of receipts could not write meanwhile is there, too.
    await eventually(async () => {
      const [ended] = await sql('select until, reason from connections where connection_id = $1', [
        sync['connectionId'],
      ]);
      expect(ended).toMatchObject({ until: expect.any(Date), reason: 'client' });
      const { body } = await get(`${service.url}/v1/notifications/${before.id}`, operator);
      expect(body).toMatchObject({ devices: [{ device: 'default', sends: 1 }] });
    });
    expect(live.ended).toBe(false);
    expect(service.exit).toBeUndefined();
    expect(service.stderr).toBe('');
  });
});

test('a network that swallows everything is noticed, and its end without a restart', async () => {
  proxy = await BreakingProxy.start(postgres);
  service = await startServiceProcess(proxy, {
    ...SETTINGS,
    // Both are waited for, again and again; a machine that stands still for a moment keeps to them.
    DATABASE_STATEMENT_TIMEOUT_MS: '3000',
    DATABASE_CONNECT_TIMEOUT_MS: '2000',
  });
  const live = await eventually(() => openLive(ann));
  const seen = live.notifications.length;
  const before = await sendUntilStored({ user: 'ann' }, 'before the stall', 'stall-before');
  await live.untilNotifications(seen + 1);
  proxy.stall();

  // The network gives no sign at all: only the timeouts can tell that anything is wrong.
  unavailable(await send({ user: 'ann' }, 'stalled', 'stalled'));
  unavailable(await post(`${service.url}/v1/acks`, ann, { upTo: before.position }));
  const newcomer = await open(ann);
  // Head and greeting do not wait for what the database has to say.
  await newcomer.until(() => newcomer.retries.length > 0, 'greeting');
  expect(newcomer.named('bye')).toEqual([]);
  await newcomer.closed;
  expect(newcomer.named('bye')).toMatchObject([{ reason: 'unavailable' }]);
  expect((await health()).body).toMatchObject({ status: 'ready', database: { reachable: false } });
  const heartbeats = live.comments.length;
  await live.until(() => live.comments.length >= heartbeats + 3, 'three heartbeats');

  proxy.flow();
  const after = await sendUntilStored({ user: 'ann' }, 'stalled', 'stalled');
  await live.untilNotifications(seen + 2);
  expect(ids(live).slice(seen)).toEqual([before.id, after.id]);
  expect((await copies()).get('"stalled"')).toBe(1);
  expect(live.ended).toBe(false);
});

test('a database that takes no writes for a while (a failover) is unavailable, and not a fault of the service', async () => {
  service = await startServiceProcess(postgres, SETTINGS);
  const live = await openLive(ann);
  const before = await sendUntilStored({ user: 'ann' }, 'before the failover', 'failover-before');
  const setReadOnly = async (value: 'on' | 'off') => {
    await sql(
      `begin read write; alter database tidings set default_transaction_read_only = ${value}; commit`,
    );
    await sql(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'tidings%'`,
    );
  };
  await setReadOnly('on');
  unavailable(await send({ user: 'ann' }, 'failover', 'failover'));
  unavailable(await post(`${service.url}/v1/acks`, ann, { upTo: before.position }));
  const newcomer = await open(ann);
  await newcomer.closed;
  expect(newcomer.named('bye')).toMatchObject([{ reason: 'unavailable' }]);
  // What only reads is not in the way.
  expect((await get(`${service.url}/v1/notifications`, operator)).status).toBe(200);
  await setReadOnly('off');
  const after = await sendUntilStored({ user: 'ann' }, 'failover', 'failover');
  await live.until(() => ids(live).includes(after.id), 'what was published after it');
  expect((await copies()).get('"failover"')).toBe(1);
});
