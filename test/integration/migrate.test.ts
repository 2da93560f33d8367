import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { migrations } from '../../migrations/migrations.ts';
import { checkDurability } from '../../src/database/durability.ts';
import { urlsOf } from '../../src/database/logins.ts';
import { migrate } from '../../src/database/migrate.ts';
import { positionOfTime } from '../../src/log/position.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
});

afterAll(async () => {
  await database.drop();
});

/** A database without tables. */
async function withEmptyDatabase(
  work: (urls: TestDatabase['urls'], url: string) => Promise<void>,
  options = '',
): Promise<void> {
  const name = `empty_${randomBytes(8).toString('hex')}`;
  await database.query(`create database ${name} template template0 owner tidings_owner ${options}`);
  const url = new URL(database.url);
  url.pathname = `/${name}`;
  try {
    await work(urlsOf(database.url, name), url.href);
  } finally {
    await database.query(`drop database ${name} with (force)`);
  }
}

test('two nodes that migrate at once both succeed, and every migration runs once', async () => {
  await withEmptyDatabase(async (urls, url) => {
    const ran = await Promise.all([migrate(urls), migrate(urls), migrate(urls)]);
    expect(ran.flat()).toEqual(migrations.map(({ name }) => name));
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const { rows } = await client.query<{ name: string }>('select name from migrations order by id');
    await client.end();
    expect(rows.map(({ name }) => name)).toEqual(migrations.map(({ name }) => name));
  });
});

test('a migrated database has nothing to migrate', async () => {
  expect(await migrate(database.urls)).toEqual([]);
});

test('a migration that meets an obstacle says so, and a later one starts where it stopped', async () => {
  await withEmptyDatabase(async (urls, url) => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query('create table acks (in_the_way int)');
    await expect(migrate(urls)).rejects.toThrow(/acks/);
    await client.query('drop table acks');
    await client.end();
    expect(await migrate(urls)).toEqual(migrations.map(({ name }) => name));
  });
});

test('the logs of tenants that there are begin with the tenant, and never behind what they hold', async () => {
  const old = await createDatabase();
  await old.query(`alter table streams drop column beginning; drop function position_at`);
  await old.query(`delete from migrations where name like 'Beginnings%'`);
  await old.query(`
    insert into tenants (tenant_id, created_at) values ('quiet', '2026-01-02T00:00:00Z'), ('older', '2026-01-02T00:00:00Z');
    insert into streams (tenant_id) values ('quiet'), ('older'), ('without');
    select create_partition('notifications', 'notifications_1', 0, 1000);
    insert into notifications (tenant_id, position, id, type, data, size, publisher)
    values ('older', 500, gen_random_uuid(), 't', '1', 1, 'p')`);
  expect(await migrate(old.urls)).toEqual(['Beginnings1700000000011']);
  expect(await old.query('select tenant_id, beginning from streams order by 1')).toEqual([
    { tenant_id: 'older', beginning: 499 },
    { tenant_id: 'quiet', beginning: positionOfTime(Date.UTC(2026, 0, 2)) },
    { tenant_id: 'without', beginning: 0 },
  ]);
  await old.drop();
});

test('a durable database passes without a warning', async () => {
  expect(await checkDurability(database.url)).toEqual([]);
});

test.each(['on', 'local', 'remote_write', 'remote_apply'])(
  'synchronous_commit = %s waits for the disk and is accepted',
  async (value) => {
    expect(
      await checkDurability(
        `${database.url}&options=${encodeURIComponent(`-c synchronous_commit=${value}`)}`,
      ),
    ).toEqual([]);
  },
);

test('synchronous_commit = off is refused, wherever it was set', async () => {
  const refusal = /synchronous_commit off: it would confirm notifications that a crash can lose/;
  await expect(
    checkDurability(`${database.url}&options=${encodeURIComponent('-c synchronous_commit=off')}`),
  ).rejects.toThrow(refusal);
  await withEmptyDatabase(async (_, url) => {
    await database.query(`alter database ${new URL(url).pathname.slice(1)} set synchronous_commit = off`);
    await expect(checkDurability(url)).rejects.toThrow(refusal);
  });
});

test('a database that is not UTF-8 is refused', async () => {
  await withEmptyDatabase(async (_, url) => {
    await expect(checkDurability(url)).rejects.toThrow(/SQL_ASCII.*UTF8/);
  }, `encoding 'SQL_ASCII'`);
});
