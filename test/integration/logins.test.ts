import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { migrations } from '../../migrations/migrations.ts';
import { readConfig } from '../../src/core/config.ts';
import { migrate, missingMigrations } from '../../src/postgres/migrate.ts';
import { openDatabase } from '../../src/postgres/open-database.ts';
import { warningOfPublicPrivileges } from '../../src/postgres/privileges.ts';
import { checkTenantIsolation, loginOf, urlsOf } from '../../src/postgres/roles.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../support/database.ts';
import { TEST_SECRET } from '../support/tokens.ts';

let database: TestDatabase;
const made: string[] = [];

beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  for (const name of made.toReversed()) await database.query(`drop owned by ${name}`).catch(() => undefined);
  await database.drop();
});
// Roles belong to the whole server; those of a test are dropped once its database, which they have rights in, is gone.
let server: pg.Client;
beforeAll(async () => {
  server = new pg.Client({ connectionString: process.env['TIDINGS_TEST_SERVER'] });
  await server.connect();
});
afterAll(async () => {
  for (const name of made) await server.query(`drop role if exists ${name}`);
  await server.end();
});

/** A role of this test, with these attributes, and how it gets to the database. */
async function role(attributes = ''): Promise<{ name: string; url: string }> {
  const login = newLogin();
  await server.query(
    `create role ${login.name} login password '${loginOf(login.url).password}' ${attributes}`,
  );
  return login;
}

/** A login that there is not yet. */
function newLogin(): { name: string; url: string } {
  const name = `login_${randomBytes(6).toString('hex')}`;
  made.push(name);
  const url = new URL(database.url);
  url.username = name;
  // Characters that a URL escapes.
  url.password = encodeURIComponent(`pass/word@${name}`);
  return { name, url: url.href };
}

describe('logins that keep tenants apart', () => {
  test('are those that the service makes for itself', async () => {
    await expect(checkTenantIsolation(database.urls)).resolves.toBeUndefined();
  });
});

describe('a login that could break tenant isolation is refused', () => {
  const refusal = (login: 'service' | 'crossTenant', url: string) =>
    checkTenantIsolation({ ...database.urls, [login]: url }).then(
      () => 'not refused',
      (error: unknown) => String(error),
    );

  test.each(['service', 'crossTenant'] as const)('as that of the %s: a superuser', async (login) => {
    expect(await refusal(login, database.url)).toMatch(/which is not bound by row-level security/);
  });

  test.each(['service', 'crossTenant'] as const)(
    'as that of the %s: the owner of the tables',
    async (login) => {
      expect(await refusal(login, database.urls.owner)).toMatch(/owner of the tables, tidings_owner/);
    },
  );

  test.each(['service', 'crossTenant'] as const)('as that of the %s: one with BYPASSRLS', async (login) => {
    expect(await refusal(login, (await role('bypassrls')).url)).toMatch(/not bound by row-level security/);
  });

  test.each(['service', 'crossTenant'] as const)(
    'as that of the %s: one that may make roles',
    async (login) => {
      expect(await refusal(login, (await role('createrole')).url)).toMatch(/may make roles/);
    },
  );

  test.each([
    ['service', 'tidings_engine', /the login of the engine/],
    ['crossTenant', 'tidings_service', /the login of the service/],
    ['service', 'tidings_owner', /owner of the tables/],
    ['crossTenant', 'tidings_owner', /owner of the tables/],
  ] as const)('as that of the %s: one that can become %s', async (login, other, why) => {
    const member = await role('noinherit');
    await server.query(`grant ${other} to ${member.name}`);
    expect(await refusal(login, member.url)).toMatch(why);
  });

  test('one login for both', async () => {
    expect(await refusal('crossTenant', database.urls.service)).toMatch(/name the same login/);
  });

  test('two logins of two databases', async () => {
    const other = await createDatabase();
    expect(await refusal('crossTenant', other.urls.crossTenant)).toMatch(/different databases/);
    await other.drop();
  });
});

describe('a database that does not isolate tenants is refused', () => {
  let holed: TestDatabase;
  beforeEach(async () => {
    holed = await createDatabase();
  });

  test.each([
    ['a table without row-level security', 'alter table sends disable row level security', /table sends/],
    ['a table that does not force it', 'alter table acks no force row level security', /table acks/],
    ['a further policy', 'create policy open on devices using (true)', /policy open of the table devices/],
    [
      'a policy of the engine for everybody',
      'alter policy of_engine on tenant_logs to public',
      /policy of_engine of the table tenant_logs/,
    ],
    [
      'a partition that can be reached',
      `select create_partition('acks', 'acks_2020_01_01', 0, 10); grant select on acks_2020_01_01 to public`,
      /partition acks_2020_01_01/,
    ],
  ])('%s', async (_, sql, why) => {
    await holed.query(sql);
    await expect(checkTenantIsolation(holed.urls)).rejects.toThrow(why);
    await holed.drop();
  });
});

describe('logins of the service', () => {
  const LARGE_OBJECTS =
    'revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid,bytea) from public';

  test('keep nothing of their own in the database: no tables, temporary or not, and no large objects', async () => {
    expect(await warningOfPublicPrivileges(database.urls.crossTenant)).toBeUndefined();
    for (const url of [database.urls.service, database.urls.crossTenant]) {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      for (const sql of [
        'create temporary table t (a int)',
        'select 1 as a into temporary t',
        'create table t (a int)',
        'create schema s',
        'select lo_create(0)',
        'select lo_creat(-1)',
        `select lo_from_bytea(0, 'abc')`,
        `select lo_import('/etc/hostname')`,
      ])
        await expect(client.query(sql)).rejects.toMatchObject({ code: '42501' });
      await client.end();
    }
  });

  test('call functions by rights of their own, also where everybody has none', async () => {
    const strict = await createDatabase();
    await strict.query('revoke execute on all functions in schema public from public');
    const callable = async (login: string) =>
      (
        await strict.query<{ name: string }>(
          `select proname as name from pg_proc where pronamespace = 'public'::regnamespace
           and has_function_privilege($1, oid, 'execute') order by 1`,
          [login],
        )
      ).map(({ name }) => name);
    expect(await callable('tidings_service')).toEqual(['position_at']);
    expect(await callable('tidings_engine')).toEqual(['create_partition', 'drop_partition']);
    await strict.drop();
  });

  test('are told of what its owner cannot take away, with what an administrator is to run', async () => {
    await withEmptyDatabase('tidings_owner', async (name) => {
      const urls = urlsOf(database.url, name);
      await migrate(urls);
      // The owner has the database, and not the functions of PostgreSQL.
      const left = await warningOfPublicPrivileges(urls.crossTenant);
      expect(left).toBe(
        `The logins of the service may make large objects in this database, which they do not need. Have an administrator run there: ${LARGE_OBJECTS}`,
      );
      const admin = new pg.Client({ connectionString: database.url.replace(/\/[^/]*$/, `/${name}`) });
      await admin.connect();
      await admin.query(left?.split('run there: ')[1] ?? '');
      await admin.end();
      expect(await warningOfPublicPrivileges(urls.crossTenant)).toBeUndefined();
    });
  });

  test('lose what they were given again, as in a copy that was restored, with the next migration', async () => {
    const copy = await createDatabase();
    await copy.query(`grant create on schema public to public`);
    await server.query(`grant temporary on database ${new URL(copy.url).pathname.slice(1)} to public`);
    expect(await warningOfPublicPrivileges(copy.urls.crossTenant)).toMatch(
      /may make temporary tables, make tables of their own/,
    );
    await migrate(copy.urls);
    expect(await warningOfPublicPrivileges(copy.urls.crossTenant)).toBeUndefined();
    await copy.drop();
  });
});

describe('the migration', () => {
  test('makes the logins that the URLs name, and they can do what they are for', async () => {
    const [service, crossTenant] = [newLogin(), newLogin()];
    const owner = await role('createrole');
    await withEmptyDatabase(owner.name, async (name) => {
      const at = (url: string) => url.replace(/\/[^/?]+(\?|$)/, `/${name}$1`);
      const urls = { service: at(service.url), crossTenant: at(crossTenant.url), owner: at(owner.url) };
      expect(await migrate(urls)).toHaveLength(migrations.length);
      await checkTenantIsolation(urls);
      expect(await missingMigrations(urls.crossTenant)).toEqual([]);
      const password = await server.query<{ rolpassword: string }>(
        'select rolpassword from pg_authid where rolname = $1',
        [service.name],
      );
      expect(password.rows[0]?.rolpassword).toMatch(/^SCRAM-SHA-256\$/);
    });
  });

  test('says what to do when the logins are missing and its own may not make them', async () => {
    const urls = { ...database.urls, service: newLogin().url };
    await expect(migrate(urls)).rejects.toThrow(/have an administrator run: create role "login_/i);
  });

  test('takes away the rights of logins that were there before', async () => {
    const before = await createDatabase();
    const service = await role();
    await migrate({ ...before.urls, service: urlWith(before.urls.service, service.url) });
    await expect(checkTenantIsolation(before.urls)).resolves.toBeUndefined();
    const old = new pg.Client({ connectionString: before.urls.service });
    await old.connect();
    await expect(old.query('select from tenant_logs')).rejects.toMatchObject({ code: '42501' });
    await old.end();
    await before.drop();
  });

  test('that finds everything granted touches no rights', async () => {
    const rights = () =>
      database.query<{ xmin: string }>(
        `select xmin::text from pg_class where relnamespace = 'public'::regnamespace order by oid`,
      );
    const before = await rights();
    expect(await migrate(database.urls)).toEqual([]);
    expect(await rights()).toEqual(before);
  });
});

describe('without the login of the owner', () => {
  const open = (place: TestDatabase) =>
    openDatabase(readConfig({ ...settingsOf(place), JWT_SECRET: TEST_SECRET }), () => undefined);

  test('the service starts on tables that are up to date', async () => {
    const opened = await open(database);
    expect(opened).toMatchObject({ migrations: [], urls: { owner: undefined } });
    await opened.close();
  });

  test('and on others it does not, and says what is missing', async () => {
    await withEmptyDatabase('tidings_owner', async (name) => {
      const urls = urlsOf(database.url, name);
      await expect(open({ ...database, urls })).rejects.toThrow(/FirstTables.*npm run migrate/);
    });
  });
});

/** The login of one URL at the place of another. */
function urlWith(place: string, login: string): string {
  const url = new URL(place);
  const { username, password } = new URL(login);
  url.username = username;
  url.password = password;
  return url.href;
}

async function withEmptyDatabase(owner: string, work: (name: string) => Promise<void>): Promise<void> {
  const name = `empty_${randomBytes(8).toString('hex')}`;
  await server.query(`create database ${name} template template0 owner ${owner}`);
  try {
    await work(name);
  } finally {
    await server.query(`drop database ${name} with (force)`);
  }
}
