import { once } from 'node:events';
import { request } from 'node:http';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { get, post, type StoredAnswer } from '../support/api.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startServiceProcess, type ServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * The service is killed without a word, at the worst moments, and another one starts on the same database. Its
 * clients come back as clients do: with the last id that they have seen, or after a reload without one.
 */

/** Processes are started and waited for, one after the other. */
jest.setTimeout(300_000);

const TOPICS = ['news'];
const publisher = serviceToken();
const operator = serviceToken({ client: 'desk', scope: 'history:read' });

let database: TestDatabase;
let service: ServiceProcess;
let devices: Device[];

beforeEach(async () => {
  database = await createDatabase();
  devices = [];
  service = await startServiceProcess(database);
});
afterEach(async () => {
  for (const device of devices) await device.leave();
  await service.end();
  await database.drop();
});

/** A device over all of its connections: what each of them has shown it. */
class Device {
  readonly past: StreamClient[] = [];
  readonly token: string;
  stream: StreamClient | undefined;

  constructor(
    readonly user: string,
    readonly device: string,
    /** After a loss: `carry` comes back with its last event id, `reload` with nothing. */
    readonly habit: 'carry' | 'reload',
  ) {
    this.token = userToken({ user, device, topics: TOPICS });
    devices.push(this);
  }

  async connect({ paused = false } = {}): Promise<StreamClient> {
    const last =
      this.habit === 'carry' ? this.past.findLast(({ lastEventId }) => lastEventId)?.lastEventId : undefined;
    this.stream = await StreamClient.open(service.url, this.token, {
      paused,
      ...(last === undefined ? {} : { lastEventId: last }),
    });
    this.past.push(this.stream);
    return this.stream;
  }

  /** Confirms everything up to this position. */
  async acknowledge(upTo: string): Promise<void> {
    const { status } = await post(`${service.url}/v1/acks`, this.token, { upTo });
    expect(status).toBe(204);
  }

  async leave(): Promise<void> {
    if (this.stream?.ended === false) await this.stream.cut();
  }
}

const send = (to: Record<string, unknown>, data: unknown) =>
  post<StoredAnswer>(`${service.url}/v1/notifications`, publisher, { to, type: 'test', data });

const sendBatch = (body: unknown, headers: Record<string, string> = {}) =>
  post<{ notifications: StoredAnswer[] }>(`${service.url}/v1/notifications/batch`, publisher, body, headers);

interface LogRow {
  readonly id: string;
  readonly position: number;
  readonly user: string | null;
}

const readLog = () =>
  database.query<LogRow & Record<string, unknown>>(
    'select id, position, user_id as "user" from notifications order by position',
  );

/** Resolves when so many sessions of the service for appends are like this. */
const untilActivity = (like: string, sessions = 1) =>
  eventually(
    async () => {
      const rows = await database.query(
        `select from pg_stat_activity where datname = current_database() and application_name = 'tidings append' and ${like}`,
      );
      expect(rows).toHaveLength(sessions);
    },
    { every: 1 },
  );

/** Keeps appends waiting in the database until it is called. */
async function holdAppends(): Promise<() => Promise<void>> {
  const holder = new pg.Client({ connectionString: database.url });
  await holder.connect();
  await holder.query('begin; select from tenant_logs for update');
  return async () => {
    await holder.query('commit');
    await holder.end();
  };
}

/**
 * Every device has everything that was addressed to it: no connection showed anything twice or out of order, each
 * went on exactly where it was asked to, and together they left nothing out.
 */
async function account(): Promise<void> {
  const log = await readLog();
  for (const { user, past, device, habit } of devices) {
    // A device begins where it was first connected: its user may have confirmed something elsewhere before.
    const first = Number(past[0]?.named('sync')[0]?.['from'] ?? 0);
    const addressed = log.filter((row) => row.position > first && (row.user === null || row.user === user));
    const shown = new Set<string>();
    for (const stream of past) {
      const positions = stream.notifications.map(({ position }) => Number(position));
      expect(positions).toEqual([...new Set(positions)].sort((a, b) => a - b));
      const start = Number(stream.named('sync')[0]?.['from'] ?? 0);
      // From where it started, without a hole, as far as it got.
      const expected = addressed.filter(({ position }) => position > start).map(({ id }) => id);
      const got = stream.notifications.map(({ id }) => id);
      expect(got).toEqual(expected.slice(0, got.length));
      for (const id of got) shown.add(id);
    }
    expect({ user, device, habit, missing: addressed.filter(({ id }) => !shown.has(id)).length }).toEqual({
      user,
      device,
      habit,
      missing: 0,
    });
  }
}

/** All devices connect again and read to the end of the log. */
async function comeBack(): Promise<void> {
  const log = await readLog();
  const head = log.at(-1)?.position ?? 0;
  for (const device of devices) {
    const stream = await device.connect();
    await stream.until(
      () => Number(stream.named('caught-up')[0]?.['position'] ?? -1) >= head,
      'the end of the log',
    );
  }
}

test('what was answered 201 reaches everyone, though the service died before it was sent', async () => {
  const users = ['ann', 'bob'];
  for (const user of users) {
    for (const habit of ['carry', 'reload'] as const) {
      // The socket of a client that does not read is full: what is published waits in the service.
      const stream = await new Device(user, habit, habit).connect();
      await stream.untilEvent('caught-up');
      stream.pause();
    }
  }
  // Together more than the sockets between them take.
  const text = 'x'.repeat(30_000);
  const answered: StoredAnswer[] = [];
  let killed: Promise<void> | undefined;
  const recipients = [{ user: 'ann' }, { user: 'bob' }, { topic: 'news' }, { everyone: true }];
  const publish = async (worker: number) => {
    for (let n = 0; killed === undefined; n += 1) {
      const answer = await send(recipients[n % 4] ?? {}, { worker, n, text }).catch(() => undefined);
      if (answer?.status !== 201) continue;
      answered.push(answer.body);
      if (answered.length === 300) killed = service.end();
    }
  };
  await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(publish));
  await killed;
  for (const { stream } of devices) stream?.resume();
  await Promise.all(devices.flatMap(({ stream }) => stream?.closed ?? []));
  const addressed = (3 * answered.length) / 4;
  expect(devices.filter(({ stream }) => (stream?.notifications.length ?? 0) > 0.9 * addressed)).toEqual([]);

  service = await startServiceProcess(database);
  await comeBack();
  const stored = new Map((await readLog()).map(({ id, position }) => [id, String(position)]));
  expect(answered.filter(({ id, position }) => stored.get(id) !== position)).toEqual([]);
  await account();
});

describe('a large batch whose publisher gets no answer is in the log as a whole or not at all, and stored once when it is sent again', () => {
  const notifications = Array.from({ length: 1_000 }, (_, n) => ({
    to: n % 3 === 0 ? { everyone: true } : { user: 'ann' },
    type: 'test',
    data: { n, text: 'x'.repeat(4_000) },
  }));
  const body = JSON.stringify({ notifications });
  const headers = { 'idempotency-key': 'the-batch' };
  let before: number;

  beforeEach(async () => {
    const device = new Device('ann', 'phone', 'reload');
    await (await device.connect()).untilEvent('caught-up');
    await send({ user: 'ann' }, 'the tenant and its partitions are there');
    before = (await readLog()).length;
  });

  const stored = async () => (await readLog()).length - before;
  const post1 = () => sendBatch(body, headers).catch(() => undefined);

  /** What is left of the batch is all or nothing; its repetition is answered with its one place in the log. */
  const repeat = async () => {
    service = await startServiceProcess(database);
    const survived = await stored();
    expect([0, notifications.length]).toContain(survived);
    const again = await sendBatch(body, headers);
    expect(again.status).toBe(201);
    expect(again.headers.get('idempotency-replayed')).toBe(survived === 0 ? null : 'true');
    const log = await readLog();
    const places = again.body.notifications.map(({ id, position }) => ({ id, position: Number(position) }));
    expect(places).toEqual(log.slice(before).map(({ id, position }) => ({ id, position })));
    expect(places).toHaveLength(notifications.length);
    await comeBack();
    await account();
    return survived;
  };

  test('(half of the body had arrived)', async () => {
    const outgoing = request(`${service.url}/v1/notifications/batch`, {
      method: 'POST',
      headers: {
        ...headers,
        authorization: `Bearer ${publisher}`,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
      },
    });
    const lost = once(outgoing, 'error');
    await new Promise<void>((sent) => outgoing.write(body.slice(0, body.length / 2), () => sent()));
    await service.end();
    await lost;
    expect(await repeat()).toBe(0);
  });

  test('(the append waited in the database)', async () => {
    const release = await holdAppends();
    const answer = post1();
    await untilActivity(`wait_event_type = 'Lock'`);
    await service.end();
    expect(await answer).toBeUndefined();
    await release();
    // The session of the dead finds out that nobody listens, some time after it has committed or not.
    await untilActivity('true', 0);
    await repeat();
  });

  test('(the append was running)', async () => {
    // It stops in the midst of its rows, until the service is dead.
    const holder = new pg.Client({ connectionString: database.url });
    await holder.connect();
    await holder.query('select pg_advisory_lock(4711)');
    await database.query(`
      create function half_way() returns trigger language plpgsql as $$
      begin
        if new.data::text like '%"n":500,%' then
          perform pg_advisory_xact_lock(4711);
        end if;
        return new;
      end $$`);
    await database.query(
      `create trigger half_way before insert on notifications for each row execute function half_way()`,
    );
    const answer = post1();
    await untilActivity(`query like '%place as materialized%' and wait_event = 'advisory'`);
    await service.end();
    expect(await answer).toBeUndefined();
    await holder.end();
    await untilActivity('true', 0);
    await repeat();
  });

  test('(it had just been committed)', async () => {
    const answer = post1();
    await eventually(async () => expect(await stored()).not.toBe(0), { every: 1 });
    await service.end();
    await answer;
    expect(await repeat()).toBe(notifications.length);
  });
});

test('a replay that is broken off goes on where it was, on the next process', async () => {
  const text = 'x'.repeat(2_000);
  const batch = (from: number) =>
    Array.from({ length: 1_000 }, (_, n) => {
      const to = [{ user: 'ann' }, { user: 'bob' }, { topic: 'news' }, { everyone: true }][n % 4];
      return { to, type: 'test', data: { n: from + n, text } };
    });
  for (const from of [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000])
    expect((await sendBatch({ notifications: batch(from) })).status).toBe(201);

  // Each is stopped at another place: more than its socket takes is still to come.
  const acknowledged: { device: Device; upTo: string }[] = [];
  for (const [index, read] of [1, 150, 600, 1_200].entries()) {
    for (const habit of ['carry', 'reload'] as const) {
      const device = new Device(index % 2 === 0 ? 'ann' : 'bob', `${habit}-${index}`, habit);
      const stream = await device.connect();
      await stream.untilNotifications(read);
      stream.pause();
      const upTo = stream.notifications[Math.floor(read / 2)]?.position ?? '';
      if (habit === 'carry' && index === 3) continue;
      await device.acknowledge(upTo);
      acknowledged.push({ device, upTo });
    }
  }
  const lastMinute = await send({ everyone: true }, 'published while they replay');
  await service.end();
  for (const { stream } of devices) stream?.resume();
  await Promise.all(devices.flatMap(({ stream }) => stream?.closed ?? []));
  expect(devices.filter(({ stream }) => stream?.named('caught-up').length !== 0)).toEqual([]);

  service = await startServiceProcess(database);
  expect(lastMinute.status).toBe(201);
  await comeBack();
  await account();
  for (const { device, upTo } of acknowledged) {
    const [row] = await database.query<{ reached: number }>(
      'select max(to_position) as reached from acks where user_id = $1 and device_id = $2',
      [device.user, device.device],
    );
    expect(row?.reached).toBeGreaterThanOrEqual(Number(upTo));
    // Who brings no position goes on behind what it has acknowledged.
    if (device.habit === 'reload')
      expect(device.stream?.named('sync')[0]).toMatchObject({ resume: 'undelivered', from: upTo });
    else expect(device.stream?.named('sync')[0]).toMatchObject({ resume: 'exact' });
  }
});

interface ConnectionItem {
  readonly connectionId: string;
  readonly since: string;
  readonly until: string | null;
  readonly reason: string | null;
}

describe('connections that the dead process left open are ended', () => {
  const list = async (query: string) =>
    (await get<{ items: ConnectionItem[] }>(`${service.url}/v1/connections${query}`, operator)).body.items;

  /** Kills the service under two streams and returns their ids. */
  const leaveTwoOpen = async (): Promise<string[]> => {
    const left: string[] = [];
    for (const user of ['ann', 'bob']) {
      const stream = await new Device(user, 'phone', 'reload').connect();
      left.push(String((await stream.untilEvent('sync'))['connectionId']));
    }
    await eventually(async () => expect(await list('')).toHaveLength(2));
    // The node has given a sign of life since.
    await eventually(async () =>
      expect(
        await database.query('select from connections c, nodes n where n.seen_at > c.since'),
      ).toHaveLength(2),
    );
    await service.end();
    return left.sort();
  };

  const bothEnded = async (left: string[], at: Date) => {
    expect(await list('')).toEqual([]);
    const items = await list('?since=2020-01-01T00:00:00.000Z');
    expect(items.map(({ connectionId }) => connectionId).sort()).toEqual(left);
    for (const item of items) expect(item).toMatchObject({ until: at.toISOString(), reason: 'node-lost' });
    // History reckons; maintenance writes it down.
    await eventually(async () => {
      const rows = await database.query('select until, reason from connections');
      expect(rows).toEqual([
        { until: at, reason: 'node-lost' },
        { until: at, reason: 'node-lost' },
      ]);
    });
    expect(await list('')).toEqual([]);
  };

  test('when a process of the same name starts', async () => {
    const left = await leaveTwoOpen();
    const [dead] = await database.query<{ name: string }>('select node as name from nodes');
    service = await startServiceProcess(database, { NODE_NAME: String(dead?.name) });
    const [node] = await database.query<{ at: Date }>('select started_at as at from nodes');
    await bothEnded(left, node?.at ?? new Date(0));
  });

  test('when their node has been silent for a while', async () => {
    const left = await leaveTwoOpen();
    // As if it had all been two minutes ago.
    await database.query(`update connections set since = since - interval '2 minutes'`);
    const [dead] = await database.query<{ at: Date }>(
      `update nodes set started_at = started_at - interval '2 minutes', seen_at = seen_at - interval '2 minutes' returning seen_at as at`,
    );
    service = await startServiceProcess(database, { NODE_NAME: 'another' });
    await bothEnded(left, dead?.at ?? new Date(0));
  });
});
