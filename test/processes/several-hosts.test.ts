import { mkdtemp, chmod, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import pg from 'pg';
import { loginOf } from '../../src/postgres/roles.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { isNeverSent } from '../../src/postgres/errors.ts';
import { Pool } from '../../src/postgres/pool.ts';
import { ownPort } from '../support/own-port.ts';
import { startPostgres, type PostgresServer } from '../support/postgres-server.ts';

/** Two servers with the same database and logins, of which one takes writes, as in a cluster. */
let first: PostgresServer;
let second: PostgresServer;
let sockets: string;
let closedPort: number;

const ask = async (server: PostgresServer, sql: string): Promise<void> => {
  const client = new pg.Client({ connectionString: server.url });
  client.on('error', () => undefined);
  await client.connect();
  await client.query(sql);
  await client.end();
};
const setReadOnly = async (server: PostgresServer, value: 'on' | 'off'): Promise<void> => {
  await ask(
    server,
    `begin read write; alter database tidings set default_transaction_read_only = ${value}; commit`,
  );
  // As a change of roles does.
  await ask(
    server,
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = 'tidings' and usename <> session_user`,
  );
};

beforeAll(async () => {
  sockets = await mkdtemp(join(tmpdir(), 'tidings-sockets-'));
  await chmod(sockets, 0o777);
  first = await startPostgres({ unix_socket_directories: sockets });
  second = await startPostgres();
  for (const url of Object.values(first.urls)) {
    const { name, password } = loginOf(url);
    await ask(second, `alter role ${pg.escapeIdentifier(name)} password ${pg.escapeLiteral(password)}`);
  }
  closedPort = await ownPort();
});
afterAll(async () => {
  await first.remove();
  await second.remove();
  await rm(sockets, { recursive: true, force: true });
});

const portOf = (server: PostgresServer) => Number(new URL(server.url).port);
/** A URL of the first server's login that names other hosts. */
const through = (url: string, authority: string, query: string): string => {
  const { username, password } = new URL(url);
  return `postgres://${username}:${password}@${authority}/tidings?sslmode=disable&${query}`;
};
const atPorts = (...ports: number[]) =>
  through(
    first.urls.crossTenant,
    ports.map((port) => `127.0.0.1:${port}`).join(','),
    'target_session_attrs=read-write',
  );

function open(url: string): Pool {
  return new Pool({
    url,
    name: 'test',
    connections: 2,
    connectTimeoutMs: 30_000,
    statementTimeoutMs: 30_000,
    preparedStatements: true,
  });
}
const PORT = { name: 'port', text: `select current_setting('port')::int as port` };
const portAsked = async (pool: Pool) => (await pool.rows<{ port: number }>(PORT))[0]?.port;

test('the first of several hosts that takes writes is used: those before it are down, or standbys', async () => {
  await setReadOnly(second, 'on');
  const pool = open(atPorts(closedPort, portOf(second), portOf(first)));
  expect(await portAsked(pool)).toBe(portOf(first));
  await pool.end();
});

test('after a failover new connections find the server that takes writes now', async () => {
  await setReadOnly(second, 'on');
  const pool = open(atPorts(portOf(first), portOf(second)));
  expect(await portAsked(pool)).toBe(portOf(first));
  await setReadOnly(first, 'on');
  await setReadOnly(second, 'off');
  // What was open has ended; the first to notice may be the statement itself.
  const asked = await portAsked(pool).catch(() => portAsked(pool));
  expect(asked).toBe(portOf(second));
  await pool.end();
  await setReadOnly(first, 'off');
});

test('while no host takes writes, a statement fails as one that was not sent, and says why of each', async () => {
  await setReadOnly(second, 'on');
  const pool = open(atPorts(closedPort, portOf(second)));
  const failure: unknown = await portAsked(pool).catch((error: unknown) => error);
  expect(isNeverSent(failure)).toBe(true);
  expect(String(failure)).toMatch(
    new RegExp(`:${closedPort} .*ECONNREFUSED.*; 127\\.0\\.0\\.1:${portOf(second)} is read-only`),
  );
  expect(String(failure)).not.toContain(loginOf(first.urls.crossTenant).password);
  await pool.end();
});

test('migrations go to the server that takes writes', async () => {
  await setReadOnly(second, 'on');
  const hosts = `127.0.0.1:${portOf(second)},127.0.0.1:${portOf(first)}`;
  const urls = Object.entries(first.urls).map(([who, url]) => [who, through(url, hosts, '')]);
  const { service = '', crossTenant = '', owner = '' } = Object.fromEntries(urls) as Record<string, string>;
  expect(await migrate({ service, crossTenant, owner })).toEqual([]);
});

test.each([
  ['a parameter', (folder: string) => ['', `host=${folder}`] as const],
  ['a host with escapes', (folder: string) => [encodeURIComponent(folder), ''] as const],
])('a Unix socket is named by %s', async (_, name) => {
  const [authority, query] = name(sockets);
  const pool = open(through(first.urls.crossTenant, authority, `${query}&port=${portOf(first)}`));
  const over = { name: 'over', text: `select inet_client_addr() is null as socket` };
  expect(await pool.rows(over)).toEqual([{ socket: true }]);
  await pool.end();
});
