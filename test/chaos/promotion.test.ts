import { execFile } from 'node:child_process';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { post, type Answer, type StoredAnswer } from '../support/api.ts';
import { settingsOf, type DatabasePlace } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres, type PostgresServer } from '../support/postgres-server.ts';
import { startServiceProcess, type ServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * The server of the database dies, and its standby is promoted: one that has every commit, and one that does not. The service
 * is told of both in its URLs.
 */

jest.setTimeout(300_000);

const MAIN = resolve(import.meta.dirname, '../../dist/src/main.js');

let primary: PostgresServer;
let standby: PostgresServer;
let service: ServiceProcess;
let streams: StreamClient[] = [];

afterEach(async () => {
  for (const stream of streams) await stream.cut();
  streams = [];
  await service.end();
  await standby.remove();
  await primary.remove();
});

async function start(isAwaited: boolean): Promise<void> {
  primary = await startPostgres();
  standby = await primary.standby(isAwaited);
  await startNode();
}
const startNode = async () => {
  service = await startServiceProcess(either(), { HEARTBEAT_SECONDS: '1', LOG_POLL_MS: 200 });
};

/** Whichever of the two takes writes. */
function either(): DatabasePlace {
  const both = (own: string) => {
    const { username, password, pathname } = new URL(own);
    const hosts = [primary, standby].map(({ url }) => new URL(url).host).join(',');
    return `postgres://${username}:${password}@${hosts}${pathname}?sslmode=disable&target_session_attrs=read-write`;
  };
  const { service: ofService, crossTenant, owner } = primary.urls;
  return {
    url: both(primary.url),
    urls: { service: both(ofService), crossTenant: both(crossTenant), owner: both(owner) },
  };
}

async function sql<Row extends pg.QueryResultRow>({ url }: PostgresServer, text: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Row>(text)).rows;
  } finally {
    await client.end();
  }
}

const promote = () => sql(standby, 'select pg_promote()');

const send = (key: string) =>
  post<StoredAnswer & { code?: string }>(
    `${service.url}/v1/notifications`,
    serviceToken(),
    { to: { user: 'alice' }, type: 't', data: key },
    { 'idempotency-key': key },
  );

/** As a publisher does: again after a 503, with the same key. */
async function sendUntilStored(key: string): Promise<Answer<StoredAnswer>> {
  return await eventually(
    async () => {
      const answer = await send(key);
      if (answer.status !== 201)
        expect([answer.status, answer.body.code]).toEqual([503, 'database_unavailable']);
      expect(answer.status).toBe(201);
      return answer;
    },
    { every: 20 },
  );
}

async function open(lastEventId?: string): Promise<StreamClient> {
  const stream = await StreamClient.open(
    service.url,
    userToken({ device: 'phone' }),
    lastEventId === undefined ? {} : { lastEventId },
  );
  streams.push(stream);
  await stream.untilEvent('caught-up');
  return stream;
}

const keysOf = (stream: StreamClient) => stream.notifications.map(({ data }) => data);
const numbered = (name: string, count: number) => Array.from({ length: count }, (_, n) => `${name}-${n}`);

test('a standby that has every commit takes over while others publish: nothing is lost or doubled, and streams stay open', async () => {
  await start(true);
  await eventually(async () =>
    expect(await sql(primary, 'select sync_state from pg_stat_replication')).toEqual([
      { sync_state: 'sync' },
    ]),
  );
  const stream = await open();
  const PUBLISHERS = 4;
  const ENOUGH = 200;
  /** When each was answered 201, by its key. */
  const stored = new Map<string, { id: string; at: number }>();
  const end = new AbortController();
  const publishers = Array.from({ length: PUBLISHERS }, async (_, publisher) => {
    for (let n = 0; !end.signal.aborted; n += 1) {
      const key = `${publisher}-${n}`;
      const { body } = await sendUntilStored(key);
      stored.set(key, { id: body.id, at: performance.now() });
    }
  });
  const untilStored = (count: number) => eventually(() => expect(stored.size).toBeGreaterThan(count));
  await untilStored(ENOUGH);
  await primary.kill();
  await promote();
  await untilStored(stored.size + ENOUGH);
  end.abort();
  await Promise.all(publishers);

  const times = [...stored.values()].map(({ at }) => at);
  const longest = Math.max(...times.slice(1).map((at, n) => at - (times[n] ?? at)));
  process.stderr.write(
    `Promotion of a synchronous standby: nothing was stored for ${(longest / 1_000).toFixed(1)} s; ${stored.size} publishes.\n`,
  );
  const log = await sql<{ id: string; key: string }>(
    standby,
    `select id, data::json #>> '{}' as key from notifications order by position`,
  );
  expect(log).toHaveLength(stored.size);
  expect(new Map(log.map(({ key, id }) => [key, id]))).toEqual(
    new Map([...stored].map(([key, { id }]) => [key, id])),
  );
  await stream.until(() => stream.notifications.length >= log.length, 'all of them');
  expect(stream.notifications.map(({ id }) => id)).toEqual(log.map(({ id }) => id));
  expect(stream.named('sync')).toHaveLength(1);
  expect(stream.ended).toBe(false);
});

/** Five that the standby has, five that it never gets, all of them seen by the device; then it takes over. */
async function loseFive(stream: StreamClient): Promise<void> {
  for (const key of numbered('kept', 5)) await sendUntilStored(key);
  await eventually(async () => expect(await sql(standby, 'select from notifications')).toHaveLength(5));
  await sql(standby, `alter system set primary_conninfo = ''`);
  await sql(standby, 'select pg_reload_conf()');
  await eventually(async () => expect(await sql(primary, 'select from pg_stat_replication')).toEqual([]));
  for (const key of numbered('lost', 5)) await sendUntilStored(key);
  await stream.untilNotifications(10);
  await primary.kill();
}

/** Publishers send again all that they sent: what survived is answered, what was lost comes anew, above all that was seen. */
async function expectSentAgain(stream: StreamClient, seen: number): Promise<void> {
  for (const key of numbered('kept', 5))
    expect((await sendUntilStored(key)).headers.get('idempotency-replayed')).toBe('true');
  for (const key of numbered('lost', 5))
    expect((await sendUntilStored(key)).headers.get('idempotency-replayed')).toBeNull();
  await stream.until(() => keysOf(stream).includes('lost-4'), 'what was lost, sent again');
  const again = stream.notifications.filter(({ data }) => String(data).startsWith('lost'));
  expect(again.map(({ data }) => data)).toEqual(numbered('lost', 5));
  for (const { position } of again) expect(Number(position)).toBeGreaterThan(seen);
  expect(await sql(standby, 'select from notifications')).toHaveLength(10);
}

test('a standby that has not every commit takes over from under a node: streams end, and whoever saw what is lost is told reset', async () => {
  await start(false);
  const stream = await open();
  await loseFive(stream);
  const seen = stream.lastEventId ?? '';
  await promote();
  await stream.closed;
  expect(stream.named('bye')).toMatchObject([{ reason: 'unavailable', reconnect: true }]);
  const back = await open(seen);
  expect(back.named('sync')).toMatchObject([{ resume: 'reset' }]);
  expect(keysOf(back)).toEqual(numbered('kept', 5));
  await expectSentAgain(back, Number(seen));
});

test('by the runbook, with log:advance between promotion and start, no position is given out twice', async () => {
  await start(false);
  const stream = await open();
  await loseFive(stream);
  const seen = stream.lastEventId ?? '';
  await service.end();
  await promote();
  const { stdout } = await promisify(execFile)(process.execPath, [MAIN, 'log-advance', '--json'], {
    env: { PATH: process.env['PATH'], ...settingsOf(either()) },
  });
  const { head, lifted } = JSON.parse(stdout) as { head: number; lifted: number };
  expect(lifted).toBe(1);
  expect(head).toBeGreaterThan(Number(seen));
  await startNode();
  const back = await open(seen);
  expect(back.named('sync')).toMatchObject([{ resume: 'exact' }]);
  expect(keysOf(back)).toEqual([]);
  await expectSentAgain(back, Number(seen));
});
