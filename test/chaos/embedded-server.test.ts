import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { z } from 'zod';
import { readConfig } from '../../src/core/config.ts';
import { EmbeddedServer } from '../../src/postgres/embedded-server.ts';
import { checkDurability, openDatabase } from '../../src/postgres/open-database.ts';
import {
  findServerBinaries,
  findServerUser,
  reachableBinaries,
  type ServerUser,
} from '../../src/postgres/server-home.ts';
import { ServerProcess, serverUrl } from '../../src/postgres/server-process.ts';
import { eventually } from '../support/eventually.ts';
import { TEST_SECRET } from '../support/tokens.ts';

let dataDir: string;
let lines: string[];
const running = new Set<EmbeddedServer>();

beforeEach(async () => {
  dataDir = join(await mkdtemp(join(tmpdir(), 'tidings-embedded-')), 'data');
  lines = [];
  // A temporary folder is closed to other users; this one is to be like any other.
  await chmod(join(dataDir, '..'), 0o755);
});

afterEach(async () => {
  for (const server of running) await stop(server);
  await rm(join(dataDir, '..'), { recursive: true, force: true });
});

async function start(): Promise<EmbeddedServer> {
  const server = await EmbeddedServer.start({ dataDir, connections: 20, report: (line) => lines.push(line) });
  running.add(server);
  return server;
}

async function stop(server: EmbeddedServer): Promise<void> {
  running.delete(server);
  await server.stop();
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<pg.QueryResultRow>(sql)).rows;
  } finally {
    await client.end();
  }
}

const secrets = z.object({ port: z.number(), password: z.string() });

/** By the login that may make tables. */
const ownerOf = ({ urls }: EmbeddedServer): string => urls.owner;

const home = () => join(dataDir, 'postgres');
const pidFile = () => join(home(), 'cluster', 'postmaster.pid');

async function serverPid(): Promise<number> {
  return Number((await readFile(pidFile(), 'utf8')).split('\n')[0]);
}

/** A program that does nothing, under the identity of the server: the worst to mistake for it. */
async function stranger(user: ServerUser) {
  const child = spawn('/bin/sleep', ['60'], { ...user, cwd: '/', stdio: 'ignore' });
  await once(child, 'spawn');
  return child;
}

test('the database, its port and its password survive a restart', async () => {
  const first = await start();
  await query(ownerOf(first), 'create table kept as select 1 as one');
  await stop(first);
  const second = await start();
  expect(ownerOf(second)).toBe(ownerOf(first));
  expect(await query(ownerOf(second), 'select one from kept')).toEqual([{ one: 1 }]);
  expect((await stat(join(home(), 'server.json'))).mode & 0o777).toBe(0o600);
});

test('the server listens on loopback only, has no Unix sockets and asks for the password', async () => {
  await start();
  const url = serverUrl(
    secrets.parse(JSON.parse(await readFile(join(home(), 'server.json'), 'utf8'))),
    'postgres',
  );
  expect(await query(url, 'show listen_addresses')).toEqual([{ listen_addresses: '127.0.0.1' }]);
  expect(await query(url, 'show unix_socket_directories')).toEqual([{ unix_socket_directories: '' }]);
  await expect(query(url.replace(/:[0-9a-f]+@/, ':wrong@'), 'select 1')).rejects.toThrow(
    /password authentication/,
  );
});

test('the server keeps what it commits', async () => {
  const url = ownerOf(await start());
  expect(await checkDurability(url)).toEqual([]);
});

test('a second process on the same folder is refused, and the folder is free after a stop', async () => {
  const first = await start();
  await expect(start()).rejects.toThrow(/Another Tidings is using .*DATA_DIR/);
  await stop(first);
  await start();
});

test('a folder is free again when the process that held it was killed', async () => {
  await mkdir(dataDir, { recursive: true });
  const script = `const { DatabaseSync } = require('node:sqlite');
    new DatabaseSync(process.argv[1]).exec('begin exclusive'); console.log('locked'); setInterval(() => {}, 1000);`;
  const holder = spawn(process.execPath, ['-e', script, join(dataDir, 'lock')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await once(holder.stdout, 'data');
    await expect(start()).rejects.toThrow(/Another Tidings/);
  } finally {
    holder.kill('SIGKILL');
  }
  await once(holder, 'exit');
  await start();
});

test('a server that an earlier run left running is stopped, and the next run goes on with its data', async () => {
  const first = await start();
  await query(ownerOf(first), 'create table kept as select 1 as one');
  await stop(first);
  const { port, password } = secrets.parse(JSON.parse(await readFile(join(home(), 'server.json'), 'utf8')));
  const files = { cluster: join(await realpath(home()), 'cluster'), logFile: join(home(), 'server.log') };
  const user = await findServerUser();
  const binaries = await reachableBinaries(home(), findServerBinaries(), user);
  const left = await ServerProcess.start({ ...files, port, password, binaries, user });
  const pid = await serverPid();
  const second = await start();
  expect(lines).toEqual([expect.stringContaining(`process ${pid}`)]);
  await left.ended;
  expect(await query(ownerOf(second), 'select one from kept')).toEqual([{ one: 1 }]);
});

test('a pid file whose process is gone does not hinder a start', async () => {
  await stop(await start());
  const gone = spawn('/bin/true');
  await once(gone, 'exit');
  await writeFile(
    pidFile(),
    `${gone.pid}\n${join(home(), 'cluster')}\n1700000000\n5432\n\n127.0.0.1\n       0         0\nready   \n`,
  );
  const url = ownerOf(await start());
  expect(await query(url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('a pid file whose number now belongs to another program hinders no start, and that program is left alone', async () => {
  await stop(await start());
  const other = await stranger(await findServerUser());
  try {
    await writeFile(
      pidFile(),
      `${other.pid}\n${join(home(), 'cluster')}\n1700000000\n5432\n\n127.0.0.1\n       0         0\nready   \n`,
    );
    await start();
    expect(other.exitCode ?? other.signalCode).toBeNull();
  } finally {
    other.kill();
  }
});

test('a cluster that was never finished is made anew, and nothing else in the folder is touched', async () => {
  await stop(await start());
  await rm(join(home(), 'cluster'), { recursive: true });
  const half = join(home(), 'unfinished-abc');
  await mkdir(join(half, 'cluster', 'base'), { recursive: true });
  await writeFile(join(half, 'cluster', 'PG_VERSION'), '18\n');
  await writeFile(join(home(), 'notes'), 'mine');
  const url = ownerOf(await start());
  expect(await query(url, 'select 1 as one')).toEqual([{ one: 1 }]);
  const entries = await readdir(home());
  expect(entries).toContain('notes');
  expect(entries.filter((entry) => entry.startsWith('unfinished-'))).toEqual([]);
});

test('when its port is taken the server takes another', async () => {
  const first = await start();
  await stop(first);
  const squatter = createServer().listen(Number(new URL(ownerOf(first)).port), '127.0.0.1');
  await once(squatter, 'listening');
  try {
    const second = await start();
    expect(new URL(ownerOf(second)).port).not.toBe(new URL(ownerOf(first)).port);
    expect(await query(ownerOf(second), 'select 1 as one')).toEqual([{ one: 1 }]);
  } finally {
    squatter.close();
  }
});

test('a server that is killed is started again on its port, with what it had committed', async () => {
  const url = ownerOf(await start());
  await query(url, 'create table kept as select 1 as one');
  process.kill(await serverPid(), 'SIGKILL');
  await eventually(async () => {
    expect(await query(url, 'select one from kept')).toEqual([{ one: 1 }]);
    expect(lines).toEqual([expect.stringContaining('started again')]);
  });
});

test('a stop leaves no process, no pid file and nothing to recover', async () => {
  const server = await start();
  const pid = await serverPid();
  await stop(server);
  expect(() => process.kill(pid, 0)).toThrow(/ESRCH/);
  await expect(stat(pidFile())).rejects.toThrow(/ENOENT/);
  await start();
  const log = await readFile(join(home(), 'server.log'), 'utf8');
  expect(log).not.toMatch(/not properly shut down/);
});

test('started as root below a folder that others cannot enter, the server lives elsewhere and says where', async () => {
  const user = await findServerUser();
  // Only root has this difficulty; anyone else owns what they start.
  if (user.uid === undefined) return;
  await chmod(join(dataDir, '..'), 0o700);
  const first = await start();
  const elsewhere = (await readFile(join(dataDir, 'postgres-is-in'), 'utf8')).trim();
  try {
    expect(lines).toEqual([expect.stringContaining(elsewhere)]);
    await query(ownerOf(first), 'create table kept as select 1 as one');
    await stop(first);
    expect(await query(ownerOf(await start()), 'select one from kept')).toEqual([{ one: 1 }]);
  } finally {
    for (const server of running) await stop(server);
    await rm(elsewhere, { recursive: true });
  }
});

test('a service that was killed does not hold up the next one on a server of its own', async () => {
  const open = () =>
    openDatabase(readConfig({ DATA_DIR: dataDir, JWT_SECRET: TEST_SECRET }), (line) => lines.push(line));
  const killed = await open();
  await query(
    killed.urls.crossTenant,
    `insert into nodes (node, instance) values ('here', gen_random_uuid())`,
  );
  await killed.close();
  const next = await open();
  expect(await query(next.urls.crossTenant, 'select node, instance from nodes')).toEqual([
    { node: 'here', instance: null },
  ]);
  await next.close();
});
