import { readFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { connectionsOf } from '../../src/postgres/sessions.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { post, publish, type StoredAnswer } from '../support/api.ts';
import { createDatabase, type DatabasePlace, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { uniqueNodeName } from '../support/node-name.ts';
import { ServiceProcess, startServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { connectionOf, expectBye } from '../support/two-nodes.ts';

/** Processes start one after the other. */
jest.setTimeout(300_000);

const everyone = { to: { everyone: true }, type: 't', data: 1 };

let database: TestDatabase;
const services: ServiceProcess[] = [];
const streams: StreamClient[] = [];
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  for (const stream of streams.splice(0)) await stream.cut();
});
afterAll(async () => {
  for (const service of services) {
    const workers = service.exit === undefined ? await workersOf(service) : [];
    await service.end();
    for (const pid of workers) await gone(pid);
  }
  await database.drop();
});

/** The two nodes of a start, the service that they are, and a tenant that only they serve. */
interface Pair {
  readonly service: ServiceProcess;
  readonly names: readonly [string, string];
  readonly tenant: string;
}

async function startPair(
  settings: Parameters<typeof startServiceProcess>[1] = {},
  place: DatabasePlace = database,
): Promise<Pair> {
  const tenant = uniqueNodeName();
  const service = await startServiceProcess(place, { WORKERS: '2', NODE_NAME: tenant, ...settings });
  services.push(service);
  const pair: Pair = { service, names: [`${tenant}-1`, `${tenant}-2`], tenant };
  await bothAnswer(pair);
  return pair;
}

/** The processes of the workers, by age, hence at first by the numbers in their names. */
async function workersOf({ pid }: ServiceProcess): Promise<number[]> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  const pids = children.split(' ').filter(Boolean).map(Number);
  const commands = await Promise.all(pids.map((each) => readFile(`/proc/${each}/cmdline`, 'utf8')));
  return pids.filter((_, index) => /main\.js|tuned-service/.test(commands[index] ?? ''));
}

const gone = (pid: number) => eventually(() => expect(() => process.kill(pid, 0)).toThrow(/ESRCH/));

/** Waits until each of the two has answered. */
async function bothAnswer({ service, names }: Pair): Promise<void> {
  const seen = new Set<unknown>();
  await eventually(async () => {
    const answer = await fetch(`${service.url}/health/ready`, { headers: { connection: 'close' } });
    seen.add(((await answer.json()) as { node: string }).node);
    expect(seen).toEqual(new Set(names));
  });
}

async function open(
  { service, tenant }: Pair,
  user: string,
  options: Parameters<typeof StreamClient.open>[2] = {},
): Promise<StreamClient> {
  const stream = await StreamClient.open(service.url, userToken({ tenant, user }), options);
  streams.push(stream);
  await stream.untilEvent('caught-up');
  return stream;
}

/** The name of the node that has a stream. */
const nodeOf = (stream: StreamClient): Promise<string> =>
  eventually(async () => {
    const [row] = await database.query<{ node: string }>(
      'select node from connections where connection_id = $1',
      [connectionOf(stream)],
    );
    if (row === undefined) throw new Error('It is not recorded yet.');
    return row.node;
  });

/** A stream on each of the two. */
async function openOnBoth(pair: Pair): Promise<readonly [StreamClient, StreamClient]> {
  const found = new Map<string, StreamClient>();
  for (let turn = 0; found.size < 2; turn += 1) {
    const stream = await open(pair, `u-${turn}`);
    found.set(await nodeOf(stream), stream);
  }
  const [first, second] = pair.names.map((name) => found.get(name));
  if (first === undefined || second === undefined)
    throw new Error(`They are on ${[...found.keys()].join()}.`);
  return [first, second];
}

const send = ({ service, tenant }: Pair) => publish(service.url, serviceToken({ tenant }), everyone);

/** Which of the names have a process. */
const taken = async ({ names }: Pair) =>
  (
    await database.query<{ node: string }>(
      'select node from nodes where node = any($1) and instance is not null order by node',
      [names],
    )
  ).map(({ node }) => node);

describe('two workers', () => {
  let pair: Pair;
  beforeAll(async () => {
    pair = await startPair({ DATABASE_OWNER_URL: database.urls.owner, LOG_LEVEL: 'info' });
  });

  test('are announced once', async () => {
    const { service } = pair;
    await eventually(() => expect(service.stderr).toMatch(/Not set +CORS_ORIGINS/));
    expect(service.stderr.match(/^Tidings \S+ listens on /gm)).toHaveLength(1);
    // A line of the log is whole, whichever of them wrote it.
    for (const line of service.stdout.trimEnd().split('\n')) JSON.parse(line);
  });

  test('are nodes with names of their own: what one stores, streams of both get', async () => {
    const both = await openOnBoth(pair);
    for (let turn = 0; turn < 4; turn += 1) await send(pair);
    for (const stream of both) await stream.untilNotifications(4);
  });

  test('say their metrics together, whichever is asked, each series with the name of its node', async () => {
    const { service, names } = pair;
    const read = async () =>
      await (await fetch(`${service.url}/metrics`, { headers: { connection: 'close' } })).text();
    const valuesOf = (page: string, name: string) =>
      names.map((node) => Number(new RegExp(`^${name}\\{worker="${node}"\\} (\\d+)$`, 'm').exec(page)?.[1]));
    const sumOf = (page: string, name: string) => valuesOf(page, name).reduce((sum, value) => sum + value, 0);
    // What was gathered is used again for a second.
    const before = await eventually(async () => {
      const page = await read();
      expect(valuesOf(page, 'tidings_connections')).toEqual([0, 0]);
      return page;
    });
    for (let user = 0; user < 4; user += 1) await open(pair, `u-${user}`);
    for (let turn = 0; turn < 3; turn += 1) await send(pair);
    const text = await eventually(async () => {
      const page = await read();
      const [then, now] = [before, page].map((each) => sumOf(each, 'tidings_published_total'));
      expect(now).toBe((then ?? Number.NaN) + 3);
      return page;
    });
    expect(sumOf(text, 'tidings_connections')).toBe(4);
    // By turns.
    expect(Math.min(...valuesOf(text, 'tidings_connections'))).toBeGreaterThan(0);
    expect(valuesOf(text, 'process_start_time_seconds')).toEqual([expect.any(Number), expect.any(Number)]);
    const heads = [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name);
    expect(new Set(heads).size).toBe(heads.length);
    const series = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    for (const line of series) expect(line).toMatch(/worker="[^"]+"/);
  });

  test('close connections above their number each, and do not send them from one to the other', async () => {
    const { service } = await startPair({ MAX_CONNECTIONS: '1' });
    const { port } = new URL(service.url);
    // Of each, with what it may have beside streams.
    const most = 2 * 1_001;
    const sockets = Array.from({ length: most + 20 }, () =>
      connect(Number(port), '127.0.0.1').on('error', () => undefined),
    );
    await eventually(() => expect(service.stdout).toMatch(/there are as many as may be/));
    for (const socket of sockets) socket.destroy();
    await eventually(async () => expect((await fetch(`${service.url}/health/live`)).ok).toBe(true));
  });

  test('do not know the login of the owner, which the primary migrates with', async () => {
    const { service } = pair;
    const { password } = new URL(database.urls.owner);
    const environment = async (pid: number) => await readFile(`/proc/${pid}/environ`, 'utf8');
    // Compared here, since what is expected of a text is printed with it.
    expect((await environment(service.pid)).includes(password)).toBe(true);
    const workers = await workersOf(service);
    expect(workers).toHaveLength(2);
    for (const pid of workers) expect((await environment(pid)).includes(password)).toBe(false);
  });
});

describe('a worker that is killed', () => {
  test('loses nothing that was answered, leaves the other alone, and is back under its name', async () => {
    const pair = await startPair();
    const { service, names, tenant } = pair;
    const [lost, kept] = await openOnBoth(pair);
    const [victim = Number.NaN] = await workersOf(service);
    const answered = new Set<string>();
    const enough = new AbortController();
    const publishers = Array.from({ length: 8 }, async () => {
      while (!enough.signal.aborted)
        try {
          const { status, body } = await post<StoredAnswer>(
            `${service.url}/v1/notifications`,
            serviceToken({ tenant }),
            everyone,
          );
          if (status === 201) answered.add(body.id);
        } catch {
          // It was cut off; nobody was told that it is stored.
        }
    });
    await eventually(() => expect(answered.size).toBeGreaterThan(50));
    process.kill(victim, 'SIGKILL');
    await lost.closed;
    expect(lost.named('bye')).toEqual([]);
    const before = answered.size;
    await eventually(() => expect(answered.size).toBeGreaterThan(before + 50));
    await bothAnswer(pair);
    enough.abort();
    await Promise.all(publishers);

    const last = lost.lastEventId;
    const again = await open(pair, 'u-again', last === undefined ? {} : { lastEventId: last });
    const complete = () => {
      const seen = [...lost.notifications, ...again.notifications].map(({ id }) => id);
      expect(new Set(seen).size).toBe(seen.length);
      for (const id of answered) expect(seen).toContain(id);
    };
    await eventually(complete, { every: 100 });
    await eventually(() => {
      const seen = kept.notifications.map(({ id }) => id);
      for (const id of answered) expect(seen).toContain(id);
    });
    expect(kept.ended).toBe(false);
    expect(service.stderr).toContain(
      `The worker ${names[0]} died (SIGKILL); another one takes its place in 0.25 s.\n`,
    );
    // At once: whoever does not know that the other one is dead waits for ten seconds, and says so.
    expect(service.stdout).not.toMatch(/its name is free once/);
    expect(await taken(pair)).toEqual(names);
  });

  test('takes no connection with it that was on its way there', async () => {
    const pair = await startPair();
    const [victim = Number.NaN] = await workersOf(pair.service);
    process.kill(victim, 'SIGSTOP');
    const { port } = new URL(pair.service.url);
    const sockets = Array.from({ length: 4 }, () => connect(Number(port), '127.0.0.1'));
    const fates = sockets.map(
      (socket) =>
        new Promise<string>((resolve) => {
          socket.once('data', () => resolve('answered')).once('close', () => resolve('closed'));
          socket.on('error', () => undefined).write('GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n');
        }),
    );
    const settled: string[] = [];
    for (const fate of fates) void fate.then((how) => settled.push(how));
    await eventually(() => expect(settled).toEqual(['answered', 'answered', 'answered']));
    process.kill(victim, 'SIGKILL');
    expect((await Promise.all(fates)).toSorted()).toEqual(['answered', 'answered', 'answered', 'closed']);
    for (const socket of sockets) socket.destroy();
    await bothAnswer(pair);
    pair.service.kill('SIGTERM');
    expect(await pair.service.ended).toEqual({ code: 0, signal: null });
  });

  test('is waited for while the database is away, which counts as no other death', async () => {
    const proxy = await BreakingProxy.start(database);
    try {
      const pair = await startPair({}, proxy);
      const { service, names } = pair;
      const [lost, kept] = await openOnBoth(pair);
      const [victim = Number.NaN] = await workersOf(service);
      proxy.away = true;
      proxy.cut();
      process.kill(victim, 'SIGKILL');
      await lost.closed;
      await eventually(() =>
        expect(service.stderr).toContain(`The worker ${names[0]} starts when the database answers: `),
      );
      proxy.away = false;
      await bothAnswer(pair);
      await send(pair);
      await kept.untilNotifications(1);
      expect(service.stderr.match(/ died /g)).toHaveLength(1);
    } finally {
      await proxy.close();
    }
  });

  test('the fifth time within a minute ends all, with a sentence that says why', async () => {
    const pair = await startPair();
    const [, kept] = await openOnBoth(pair);
    const { service, names } = pair;
    const [, untouched] = await workersOf(service);
    const dead = new Set<number>();
    while (dead.size < 5) {
      const victim = await eventually(async () => {
        const found = (await workersOf(service)).find((pid) => pid !== untouched && !dead.has(pid));
        if (found === undefined) throw new Error('It has not started yet.');
        return found;
      });
      process.kill(victim, 'SIGKILL');
      dead.add(victim);
    }
    expect(await service.ended).toEqual({ code: 1, signal: null });
    await expectBye(kept, 'shutdown');
    expect(service.stderr).toMatch(
      new RegExp(`\nWorkers died 5 times within a minute, at last ${names[0]} \\(SIGKILL\\); [^\n]+\n$`),
    );
  });
});

describe('the end of all workers', () => {
  test('is asked for by one signal: every stream gets its bye, and every name is left', async () => {
    const pair = await startPair({ METRICS_PORT: '0' });
    const all = await Promise.all(Array.from({ length: 20 }, (_, user) => open(pair, `u-${user}`)));
    // To the whole group, as a terminal and some supervisors do.
    for (const pid of await workersOf(pair.service)) process.kill(pid, 'SIGTERM');
    pair.service.kill('SIGTERM');
    for (const stream of all) await expectBye(stream, 'shutdown');
    expect(await pair.service.ended).toEqual({ code: 0, signal: null });
    expect(pair.service.stderr).toBe('');
    expect(await taken(pair)).toEqual([]);
    expect(
      await database.query('select distinct reason from connections where node = any($1)', [pair.names]),
    ).toEqual([{ reason: 'shutdown' }]);
  });

  test('does not wait for one that hangs: not after the deadline, and not after a second signal', async () => {
    for (const [settings, why] of [
      [{ SHUTDOWN_DEADLINE_SECONDS: '2' }, 'The stop took longer than 2 s (SHUTDOWN_DEADLINE_SECONDS).\n'],
      [{ SHUTDOWN_DEADLINE_SECONDS: '300' }, 'Stopped at once.\n'],
    ] as const) {
      const { service } = await startPair(settings);
      const workers = await workersOf(service);
      process.kill(workers[0] ?? Number.NaN, 'SIGSTOP');
      service.kill('SIGTERM');
      if (why.startsWith('Stopped'))
        await eventually(
          () => {
            if (service.exit === undefined) service.kill('SIGTERM');
            expect(service.exit).toBeDefined();
          },
          { every: 200 },
        );
      expect(await service.ended).toEqual({ code: 1, signal: null });
      expect(service.stderr).toBe(why);
      for (const pid of workers) await gone(pid);
    }
  });

  test('comes by draining when the primary is killed', async () => {
    const pair = await startPair();
    const both = await openOnBoth(pair);
    const workers = await workersOf(pair.service);
    pair.service.kill('SIGKILL');
    for (const stream of both) await expectBye(stream, 'shutdown');
    for (const pid of workers) await gone(pid);
    expect(await taken(pair)).toEqual([]);
  });
});

describe('a start of several workers that cannot be', () => {
  const failure = async (settings: Parameters<typeof ServiceProcess.launch>[1]): Promise<string> => {
    const service = await ServiceProcess.launch(database, { WORKERS: '2', ...settings });
    services.push(service);
    expect(await service.ended).toEqual({ code: 1, signal: null });
    return service.stderr;
  };

  test('says why once, and is not tried again', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    try {
      const port = String((other.address() as AddressInfo).port);
      expect(await failure({ PORT: port })).toMatch(new RegExp(`^Port ${port} is in use[^\n]+\n$`));
      expect(await failure({ METRICS_PORT: port })).toMatch(/^Metrics cannot be served there[^\n]+\n$/);
    } finally {
      other.close();
    }
  });

  test('is refused where the server has no room for their connections', async () => {
    const needed = connectionsOf({ WORKERS: 256, DATABASE_CONNECTIONS_PER_POOL: 4 });
    expect(await failure({ WORKERS: '256' })).toMatch(
      new RegExp(
        `^The database has room for \\d+ connections [^\n]+ the 256 nodes of WORKERS take up to ${needed}: raise max_connections, or lower WORKERS or DATABASE_CONNECTIONS_PER_POOL\\.\n$`,
      ),
    );
  });
});
