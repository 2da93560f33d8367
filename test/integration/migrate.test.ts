import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { OneWordPerThing1700000000012 } from '../../migrations/0012-one-word-per-thing.ts';
import { migrations } from '../../migrations/migrations.ts';
import { checkDurability } from '../../src/postgres/open-database.ts';
import { urlsOf } from '../../src/postgres/roles.ts';
import { createDataSource, migrate } from '../../src/postgres/migrate.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

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

test('a migration that does not get its table keeps nobody waiting, says what is in the way, and is done once that is over', async () => {
  const old = await createDatabase();
  // It takes a table that every node writes to. What has come since is undone and done again with it.
  const undone = await undo(old.url, OneWordPerThing1700000000012);
  await old.query(
    `insert into tenants (tenant_id) values ('older'); insert into streams (tenant_id) values ('older')`,
  );
  const backup = new pg.Client({ connectionString: old.url });
  await backup.connect();
  try {
    await backup.query('begin; select from streams');
    const refused = migrate(old.urls).then(String, String);
    await eventually(async () =>
      expect(
        await old.query(
          `select from pg_locks where relation = 'streams'::regclass and mode = 'AccessExclusiveLock' and not granted`,
        ),
      ).toHaveLength(1),
    );
    // Of a node that is at work: behind the migration, and not behind the backup.
    await old.query('update streams set head = head + 1');
    expect(await refused).toMatch(/cannot be changed while others hold it: migrate again/);
    await backup.query('commit');
    expect(await migrate(old.urls)).toEqual(undone);
    expect(await old.query('select tenant_id, head from tenant_logs')).toEqual([
      { tenant_id: 'older', head: 1 },
    ]);
  } finally {
    await backup.end();
    await old.drop();
  }
}, 60_000);

/** Back to what there was before a migration. The names of those that are missing then, in order. */
async function undo(url: string, migration: (typeof migrations)[number]): Promise<string[]> {
  const source = await createDataSource(url).initialize();
  const undone = migrations.slice(migrations.indexOf(migration)).map(({ name }) => name);
  for (const _ of undone) await source.undoLastMigration();
  await source.destroy();
  return undone;
}

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
