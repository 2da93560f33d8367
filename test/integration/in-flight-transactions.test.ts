import { afterAll, beforeAll, expect, test } from '@jest/globals';
import pg from 'pg';
import { InFlightTransactionsStore } from '../../src/cluster/change-feed.ts';
import { ChangeFeedPool } from '../../src/postgres/pools.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
const pools: ChangeFeedPool[] = [];
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.end()));
  await database.drop();
});

function graceOn(url: string): InFlightTransactionsStore {
  const options = {
    connections: 1,
    connectTimeoutMs: 60_000,
    statementTimeoutMs: 60_000,
    preparedStatements: true,
  };
  const pool = new ChangeFeedPool({ ...options, url, name: 'test' });
  pools.push(pool);
  return new InFlightTransactionsStore(pool);
}

async function session(name: string, base = database): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: base.url, application_name: name });
  await client.connect();
  return client;
}

test('a transaction that may not see what was just committed is waited for, though it has written nothing yet', async () => {
  const grace = graceOn(database.url);
  const ours = await session('tidings append');
  // In a transaction of its own each statement sees what was committed before it; this one keeps its first snapshot.
  await ours.query('begin isolation level repeatable read');
  await ours.query('select 1');
  await database.query('create table seen (n int)');
  await database.query('insert into seen values (1)');
  const before = await grace.underWay();
  expect(before).toHaveLength(1);
  expect((await ours.query('select from seen')).rowCount).toBe(0);
  expect(await grace.still(before)).toEqual(before);
  await ours.query('commit');
  expect(await grace.still(before)).toEqual([]);

  // One that began later is not waited for, nor is a session without a transaction.
  await ours.query('begin; select 1');
  expect(await grace.still(before)).toEqual([]);
  await ours.query('commit');
  expect(await grace.underWay()).toEqual([]);
  await ours.end();
});

test('the transaction of a client that is gone is waited for until the server has ended it', async () => {
  const grace = graceOn(database.url);
  const holder = await session('holder');
  await holder.query('begin; create table held (n int)');
  const ours = await session('tidings append');
  ours.on('error', () => undefined);
  const { rows } = await ours.query<{ pid: number }>('select pg_backend_pid() as pid');
  const statement = ours.query('create table held (n int)').catch(() => undefined);
  await eventually(async () => {
    const waiting = await database.query(
      `select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock'`,
      [rows[0]?.pid],
    );
    expect(waiting).toHaveLength(1);
  });
  Reflect.get(Reflect.get(ours, 'connection'), 'stream').destroy();
  await statement;
  const before = await grace.underWay();
  expect(before).toHaveLength(1);
  expect(await grace.still(before)).toEqual(before);
  await holder.query('rollback');
  await holder.end();
  await eventually(async () => expect(await grace.still(before)).toEqual([]));
});

test('sessions of others are not waited for, nor those in another database', async () => {
  const grace = graceOn(database.url);
  const elsewhere = await createDatabase();
  const [dump, foreign] = [await session('pg_dump'), await session('tidings append', elsewhere)];
  for (const client of [dump, foreign]) await client.query('begin; select 1');
  expect(await grace.underWay()).toEqual([]);
  // Where the settings give our sessions another name, nobody can tell them apart.
  const url = new URL(database.url);
  url.searchParams.set('application_name', 'renamed');
  expect(await graceOn(url.href).underWay()).toHaveLength(1);
  for (const client of [dump, foreign]) await client.end();
  await elsewhere.drop();
});
