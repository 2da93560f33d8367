import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { RevocationsBySubject1700000000010 } from '../../migrations/0010-revocations-by-subject.ts';
import { OneWordPerThing1700000000012 } from '../../migrations/0012-one-word-per-thing.ts';
import { Inbox1700000000014 } from '../../migrations/0014-inbox.ts';
import { InboxRanges1700000000015 } from '../../migrations/0015-inbox-ranges.ts';
import { migrations } from '../../migrations/migrations.ts';
import { checkDurability, openDatabase } from '../../src/postgres/open-database.ts';
import { urlsOf } from '../../src/postgres/roles.ts';
import { createDataSource, migrate } from '../../src/postgres/migrate.ts';
import { publish } from '../support/api.ts';
import { startService } from '../support/app.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { testConfig } from '../support/settings.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, TEST_SECRET, userToken } from '../support/tokens.ts';

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

test('what is in the log when inboxes come can be marked, and counts as read', async () => {
  const old = await createDatabase();
  try {
    await undo(old.url, Inbox1700000000014);
    await old.query(`
      insert into tenant_logs (tenant_id, head) values ('older', 4711);
      select create_partition('notifications', 'notifications_2020_01_01', 0, 1000000)`);
    await migrate(old.urls);
    for (const table of ['inbox_marks', 'engagements'])
      expect(
        await old.query(
          `select relname as name, pg_get_expr(relpartbound, oid) as bounds from pg_class
           where oid in (select inhrelid from pg_inherits where inhparent = $1::regclass)
             and relname like '%2020%'`,
          [table],
        ),
      ).toEqual([{ name: `${table}_2020_01_01`, bounds: `FOR VALUES FROM ('0') TO ('1000000')` }]);
    expect(await old.query(`select inbox_beginning from tenant_logs`)).toEqual([{ inbox_beginning: 4711 }]);
  } finally {
    await old.drop();
  }
});

test('what users had marked as unread or unarchived is found again', async () => {
  const old = await createDatabase();
  try {
    await undo(old.url, InboxRanges1700000000015);
    await old.query(`
      select create_partition('inbox_marks', 'inbox_marks_2020_01_01', 0, 1000000);
      insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since)
      select tenant, person, 0, 9, 9, 9, 0 from (values ('a', 'back'), ('a', 'read'), ('b', 'back')) as u (tenant, person);
      insert into inbox_marks (tenant_id, user_id, position, read, archived) values
        ('a', 'back', 2, true, null), ('a', 'back', 3, false, null), ('a', 'back', 5, true, false), ('a', 'back', 7, true, true),
        ('a', 'read', 4, true, null), ('b', 'back', 8, null, false)`);
    await migrate(old.urls);
    expect(
      await old.query(`select tenant_id, user_id, back_from, back_to from inbox_users order by 1, 2`),
    ).toEqual([
      { tenant_id: 'a', user_id: 'back', back_from: 3, back_to: 5 },
      { tenant_id: 'a', user_id: 'read', back_from: null, back_to: null },
      { tenant_id: 'b', user_id: 'back', back_from: 8, back_to: 8 },
    ]);
    expect(
      await old.query(
        `select relname from pg_class where relname in ('inbox_users', 'inbox_marks') and not relforcerowsecurity`,
      ),
    ).toEqual([]);
  } finally {
    await old.drop();
  }
});

describe('beside nodes that are at work', () => {
  let old: TestDatabase;
  let undone: string[];
  /** A backup, or somebody with a long transaction. */
  let holder: pg.Client;
  let said: string[];
  const patience = { report: (line: string) => void said.push(line) };

  beforeEach(async () => {
    old = await createDatabase();
    holder = new pg.Client({ connectionString: old.url, application_name: 'a long report' });
    await holder.connect();
    said = [];
  });
  afterEach(async () => {
    await holder.end();
    await old.drop();
  });

  /** What has come since a migration is undone and done again with it. */
  const before = async (migration: (typeof migrations)[number]) => {
    undone = await undo(old.url, migration);
    await old.query(
      `insert into tenants (tenant_id) values ('older'); insert into streams (tenant_id) values ('older')`,
    );
  };
  const pidOfHolder = async () =>
    (await holder.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]?.pid;
  const requests = async (table: string) =>
    await old.query(`select from pg_locks where relation = $1::regclass and not granted`, [table]);
  const expectTold = async (what: RegExp) =>
    await eventually(() => expect(said).toContainEqual(expect.stringMatching(what)));

  test('a migration that does not get its table asks no more while the same transaction has it, says whose that is, and is done once it is over', async () => {
    // It takes a table that every node writes to.
    await before(OneWordPerThing1700000000012);
    await holder.query('begin; select from streams');
    const migrated = migrate(old.urls, patience);
    await expectTold(
      new RegExp(
        `^The migration waits for process ${await pidOfHolder()} \\("a long report"\\), which has the table streams since 20[-0-9]+T[:.0-9]+Z\\. `,
      ),
    );
    await eventually(async () => expect(await requests('streams')).toEqual([]));
    for (let n = 0; n < 10; n += 1) {
      expect(await requests('streams')).toEqual([]);
      // Of a node that is at work.
      await old.query('update streams set head = head + 1');
    }
    await holder.query('commit');
    expect(await migrated).toEqual(undone);
    expect(await old.query('select tenant_id, head from tenant_logs')).toEqual([
      { tenant_id: 'older', head: 10 },
    ]);
  });

  test('what holds a table lightly is asked to yield, once', async () => {
    await before(OneWordPerThing1700000000012);
    await holder.query('begin; lock table streams in share update exclusive mode');
    const migrated = migrate(old.urls, patience);
    await expectTold(/"a long report"/);
    await eventually(async () => expect(await requests('streams')).toEqual([]));
    await old.query('update streams set head = head + 1');
    await holder.query('commit');
    expect(await migrated).toEqual(undone);
  });

  test('patience has an end, which names who has the table, and leaves everything as it was', async () => {
    await before(OneWordPerThing1700000000012);
    await holder.query('begin; select from streams');
    await expect(migrate(old.urls, { patienceMs: 1_500 })).rejects.toThrow(
      new RegExp(
        `cannot be changed while others hold it \\(process ${await pidOfHolder()} .*"a long report".*\\): migrate again`,
      ),
    );
    expect(await old.query('select tenant_id, head from streams')).toEqual([{ tenant_id: 'older', head: 0 }]);
  });

  test('a start that is told to stop waits no longer', async () => {
    await before(OneWordPerThing1700000000012);
    await holder.query('begin; select from streams');
    const stop = new AbortController();
    const migrated = migrate(old.urls, { ...patience, stop: stop.signal });
    await expectTold(/a long report/);
    stop.abort();
    await expect(migrated).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
  });

  test('rights are given in the same way beside a service, and a second migration says whom it waits for', async () => {
    const service = await startService({}, { database: old });
    await old.query(`update database_logins set rights = 'of an older version'`);
    await holder.query('begin; select from devices');
    const first = migrate(old.urls, patience);
    await expectTold(/"a long report".*the table devices/);
    const second = migrate(old.urls, patience);
    await expectTold(/^Another migration is under way \(process \d+, "migration lock of tidings", since 20/);
    await eventually(async () => expect(await requests('devices')).toEqual([]));
    // Of a node that is at work, while the report goes on: a stream of a new device, and what it is sent.
    const stream = await StreamClient.open(service.url, userToken());
    await stream.untilEvent('caught-up');
    await publish(service.url, serviceToken(), { to: { user: 'alice' }, type: 't', data: 1 });
    await stream.untilNotifications(1);
    await stream.cut();
    await holder.query('commit');
    expect(await Promise.all([first, second])).toEqual([[], []]);
    await service.close();
    expect(await old.query(`select from database_logins where rights = 'of an older version'`)).toEqual([]);
  });

  test('an index is made while others write, waits for transactions that were there before, and one that came to nothing is made anew', async () => {
    undone = await undo(old.url, RevocationsBySubject1700000000010);
    await old.query(`insert into tenants (tenant_id) values ('older')`);
    await old.query(`create index revocations_by_subject on revocations (kind)`);
    await holder.query(`begin; lock table revocations in row exclusive mode`);
    const migrated = migrate(old.urls, patience);
    await expectTold(/"a long report".* its transaction open since/);
    await old.query(
      `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at) values ('older', gen_random_uuid(), 'token', 'x', now())`,
    );
    await holder.query('commit');
    expect(await migrated).toEqual(undone);
    expect(
      await old.query(
        `select indisvalid as valid, indnkeyatts::int as columns from pg_index where indexrelid = 'revocations_by_subject'::regclass`,
      ),
    ).toEqual([{ valid: true, columns: 3 }]);
  });
});

/** Back to what there was before a migration. The names of those that are missing then, in order. */
async function undo(url: string, migration: (typeof migrations)[number]): Promise<string[]> {
  const source = await createDataSource(url).initialize();
  const undone = migrations.slice(migrations.indexOf(migration)).map(({ name }) => name);
  for (const _ of undone) await source.undoLastMigration();
  await source.destroy();
  return undone;
}

describe('a database that a newer version has migrated', () => {
  const NEWER = 'Inboxes1700000009999';
  let newer: TestDatabase;
  beforeEach(async () => {
    newer = await createDatabase();
    await newer.query(`
      insert into migrations (timestamp, name) values (1700000009999, '${NEWER}');
      create table inboxes (tenant_id text);
      alter table inboxes owner to tidings_owner;
      grant select on inboxes to tidings_service;
      revoke select on nodes from tidings_service;
      update database_logins set rights = 'of a newer version'`);
  });
  afterEach(async () => {
    await newer.drop();
  });

  /** Rights, policies, logins, and what else of the catalogue a start or a migration writes. */
  const catalogue = async () => ({
    tables: await newer.query(
      `select relname, relowner, relacl::text, relrowsecurity, relforcerowsecurity, xmin::text from pg_class
       where relnamespace = 'public'::regnamespace order by relname`,
    ),
    columns: await newer.query(
      `select attrelid, attname, attacl::text from pg_attribute where attacl is not null order by 1, 2`,
    ),
    functions: await newer.query(`select oid, proacl::text, xmin::text from pg_proc order by oid`),
    policies: await newer.query(`select oid, polname, polroles, xmin::text from pg_policy order by oid`),
    schemas: await newer.query(`select nspname, nspacl::text from pg_namespace order by 1`),
    database: await newer.query(`select datacl::text from pg_database where datname = current_database()`),
    settings: await newer.query(
      `select * from pg_db_role_setting where setdatabase = (select oid from pg_database where datname = current_database())`,
    ),
    logins: await newer.query(`select * from database_logins order by purpose`),
    migrations: await newer.query(`select * from migrations order by id`),
  });

  const refusal = new RegExp(
    `^The tables were migrated by a newer version of Tidings: they have ${NEWER}, which this one \\(.+\\) does not know\\. It changes nothing\\. Start the newer version; `,
  );

  const start = async (settings: Record<string, string>) =>
    await openDatabase(testConfig({ ...settings, JWT_SECRET: TEST_SECRET }), () => undefined);

  test('is left as it is by a start that could migrate, by one that could not, and by a migration alone', async () => {
    const before = await catalogue();
    const withOwner = { ...settingsOf(newer), DATABASE_OWNER_URL: newer.urls.owner };
    for (const refused of [
      () => start(withOwner),
      () => start(settingsOf(newer)),
      () => migrate(newer.urls),
      // Nor are logins made that this version would need.
      () =>
        migrate({ ...newer.urls, service: newer.urls.service.replace('tidings_service', 'tidings_nobody') }),
    ])
      await expect(refused()).rejects.toThrow(refusal);
    expect(await catalogue()).toEqual(before);
    expect(await newer.query(`select from pg_roles where rolname = 'tidings_nobody'`)).toEqual([]);
  });
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
