import { createServer, type AddressInfo, type Server } from 'node:net';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { isConnectionLoss } from '../../src/postgres/errors.ts';
import { Pool, type PoolOptions } from '../../src/postgres/pool.ts';
import { TenantPool } from '../../src/postgres/tenant-pool.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';

/*
 * The server may end a session in the same moment in which it has answered, and both come together. A listener that is
 * attached a moment later than the driver hands out the connection misses it, and an error event that nobody hears ends
 * the process.
 */

/* https://www.postgresql.org/docs/current/protocol-message-formats.html */
const message = (type: string, body: Buffer): Buffer => {
  const head = Buffer.alloc(5);
  head.write(type, 'latin1');
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
};
const AUTHENTICATED = message('R', Buffer.alloc(4));
const READY = message('Z', Buffer.from('I'));
const DONE = message('C', Buffer.from('SELECT 0\0'));
const TERMINATED = message(
  'E',
  Buffer.from('SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0'),
);

const NOTHING = { name: 'nothing', text: 'select' };

let server: Server;
let options: PoolOptions;
/** What each connection is answered to its startup, to what sets up its session, and to its first query. */
let answers: Buffer[][];

beforeEach(async () => {
  server = createServer((socket) => {
    const said = [...(answers.shift() ?? [])];
    socket.on('data', () => socket.write(said.shift() ?? READY)).on('error', () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  options = {
    url: `postgres://tidings@127.0.0.1:${(server.address() as AddressInfo).port}/tidings`,
    name: 'test',
    connections: 1,
    connectTimeoutMs: 60_000,
    statementTimeoutMs: 60_000,
    preparedStatements: false,
  };
});
afterEach(() => {
  server.close();
});

const lossOf = async (work: Promise<unknown>): Promise<boolean> =>
  await work.then(
    () => false,
    (error: unknown) => isConnectionLoss(error),
  );

type Running = readonly [pool: Pool | TenantPool, running: Promise<unknown>];

function statement(): Running {
  const pool = new Pool(options);
  return [pool, pool.rows(NOTHING)];
}

function transaction(): Running {
  const pool = new Pool(options);
  return [pool, pool.transaction((run) => run(NOTHING))];
}

function statementOfTenant(): Running {
  const pool = new TenantPool(options);
  return [pool, pool.rows(tenantIdSchema.parse('acme'), NOTHING)];
}

test.each([
  ['a statement', statement],
  ['a transaction', transaction],
  ['a statement of a tenant', statementOfTenant],
])('%s loses its connection, no more, when the session ends as it begins', async (_, start) => {
  for (const begin of [
    [Buffer.concat([AUTHENTICATED, READY, TERMINATED])],
    [Buffer.concat([AUTHENTICATED, READY]), Buffer.concat([DONE, READY, TERMINATED])],
  ]) {
    answers = [begin];
    const [pool, running] = start();
    expect(await lossOf(running)).toBe(true);
    await pool.end();
  }
});

test('a transaction that waits for a connection gets a new one, when the session ends with the answer of another', async () => {
  answers = [
    [
      Buffer.concat([AUTHENTICATED, READY]),
      Buffer.concat([DONE, READY]),
      // Two answers: to what goes in front of the statement, and to the statement.
      Buffer.concat([DONE, DONE, READY, TERMINATED]),
    ],
    [Buffer.concat([AUTHENTICATED, READY])],
  ];
  const pool = new Pool(options);
  const first = pool.rows(NOTHING);
  const second = pool.transaction((run) => run(NOTHING));
  expect(await first).toEqual([]);
  expect(await second).toEqual([]);
  expect(answers).toEqual([]);
  await pool.end();
});
