import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { withConnection } from '../../src/postgres/connection.ts';
import { databaseUnavailable, isUnavailable } from '../../src/postgres/errors.ts';
import { keepSettings, SESSION_SETTINGS } from '../../src/postgres/session-settings.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { HOSTILE, makeHostile } from '../support/hostile-settings.ts';
import { openMaintenancePool, openPools } from '../support/pools.ts';
import { forgetStatements } from '../support/statement-log.ts';

const acme = tenantIdSchema.parse('acme');

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await forgetStatements(database.url);
  await database.drop();
});

const LOOK = `select name, current_setting(name) as value from unnest($1::text[]) as name`;

/** Limits of time that anybody may have set, but for the one that the service wants, and that of a standby. */
const LIMITS = `
  select name, setting as value from pg_settings
  where name ~ '_timeout$' and context = 'user' and setting <> '0'
    and name not in ('idle_in_transaction_session_timeout', 'wal_sender_timeout')`;

type Setting = { name: string; value: string };
const namesOf = (settings: object) => [Object.keys(settings)];
const asObject = (rows: readonly Setting[]) =>
  Object.fromEntries(rows.map(({ name, value }) => [name, value]));

/** Those that are not limits, which are of the statement. */
const { statement_timeout: _, lock_timeout: __, ...LASTING } = SESSION_SETTINGS;

test('whatever somebody may have set otherwise is set', () => {
  expect(Object.keys(SESSION_SETTINGS).toSorted()).toEqual(Object.keys(HOSTILE).toSorted());
});

/** How the driver begins a session when nobody sets it up: like a pooler that opens one for whoever comes. */
async function begunWith(url: string): Promise<Record<string, string>> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return asObject((await client.query<Setting>(LOOK, namesOf(SESSION_SETTINGS))).rows);
  } finally {
    await client.end();
  }
}

describe.each(['database', 'logins'] as const)('whatever was set for the %s', (whose) => {
  beforeAll(() => makeHostile(database, whose));

  test('every connection is as the service needs it', async () => {
    const { tenant, engine, end } = openPools(database);
    const maintenance = openMaintenancePool(database);
    const look = { name: 'look', text: LOOK };
    expect(asObject(await engine.rows<Setting>(look, namesOf(LASTING)))).toEqual(LASTING);
    expect(asObject(await maintenance.rows<Setting>(look, namesOf(LASTING)))).toEqual(LASTING);
    const ofTenant = { name: 'look_of_tenant', text: `${LOOK.replace('$1', '$2')} where $1 <> ''` };
    expect(asObject(await tenant.rows<Setting>(acme, ofTenant, namesOf(LASTING)))).toEqual(LASTING);
    for (const url of Object.values(database.urls)) {
      const rows = await withConnection({ url, name: 'test' }, async (client) => {
        return (await client.query<Setting>(LOOK, namesOf(SESSION_SETTINGS))).rows;
      });
      expect(asObject(rows)).toEqual(SESSION_SETTINGS);
      // Whatever this server may know.
      const { rows: limits } = await withConnection({ url, name: 'test' }, (client) =>
        client.query<Setting>(LIMITS),
      );
      expect(limits).toEqual([]);
    }
    await Promise.all([end(), maintenance.end()]);
  });

  test('a login that keeps the settings begins every session with them, and keeps them once', async () => {
    const { service, crossTenant } = database.urls;
    for (const url of [service, crossTenant]) {
      expect(await begunWith(url)).not.toMatchObject({ DateStyle: SESSION_SETTINGS['DateStyle'] });
      // Two nodes that start at once.
      await Promise.all([keepSettingsBy(url), keepSettingsBy(url)]);
      expect(await begunWith(url)).toEqual(SESSION_SETTINGS);
    }
    const versions = () => database.query(`select setrole, xmin::text from pg_db_role_setting order by 1`);
    const before = await versions();
    await keepSettingsBy(service);
    expect(await versions()).toEqual(before);
  });
});

/** As at a start of the service with this DATABASE_URL. */
const keepSettingsBy = async (url: string): Promise<void> =>
  await withConnection({ url, name: 'test' }, (client) => keepSettings(client, 'DATABASE_URL'));

describe('a statement', () => {
  const limits = {
    name: 'limits_seen',
    text: `select current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock`,
  };

  test('brings the limits of its pool, which end with it', async () => {
    const { tenant, engine, end } = openPools(database, 1);
    const maintenance = openMaintenancePool(database);
    expect(await engine.rows(limits)).toEqual([{ statement: '1min', lock: '0' }]);
    expect(await maintenance.rows(limits)).toEqual([{ statement: '10min', lock: '2s' }]);
    const ofTenant = { name: 'limits_of_tenant', text: `${limits.text} where $1 <> ''` };
    expect(await tenant.rows(acme, ofTenant)).toEqual([{ statement: '1min', lock: '0' }]);
    expect(await maintenance.transaction((run) => run(limits))).toEqual([{ statement: '10min', lock: '2s' }]);
    expect(await tenant.transaction(acme, (run) => run(acme, ofTenant))).toEqual([
      { statement: '1min', lock: '0' },
    ]);
    await Promise.all([end(), maintenance.end()]);
  });

  test('that a limit of its transaction ends came too late, as one that its own limit ends', async () => {
    const { engine, end } = openPools(database, 1);
    const limited = {
      name: 'limited',
      text: `select set_config('transaction_timeout', '1', true), pg_sleep(600)`,
    };
    const late: unknown = await engine.transaction((run) => run(limited)).catch((error: unknown) => error);
    expect(late).toMatchObject({ code: '25P04' });
    const idle = Object.assign(new Error('terminating connection'), { code: '25P03' });
    for (const error of [late, idle]) {
      expect(isUnavailable(error)).toBe(true);
      expect(databaseUnavailable(error)).toMatchObject({ code: 'database_busy' });
    }
    await end();
  });

  test('that brings an instant which cannot be read fails: it is not the absence of one', async () => {
    const { engine, end } = openPools(database, 1);
    for (const instant of ['now()', `timestamptz 'infinity'`, `now()::timestamp`, 'now()::date'])
      await expect(
        engine.rows({
          name: `unreadable_${instant}`,
          text: `select ${instant} as instant from (select set_config('DateStyle', 'German', true)) as german`,
        }),
      ).rejects.toThrow(/an instant that cannot be read/);
    expect(await engine.rows({ name: 'none', text: 'select null::timestamptz as instant' })).toEqual([
      { instant: null },
    ]);
    await end();
  });
});

describe('a session', () => {
  const login = (url: string) => pg.escapeIdentifier(new URL(url).username);
  const name = () => pg.escapeIdentifier(new URL(database.url).pathname.slice(1));

  test.each([
    ['session_replication_role', `'replica'`],
    ['tidings.tenant', `'acme'`],
  ])(
    'is refused at the start when %s was set for the login and cannot be set back',
    async (setting, value) => {
      const subject = `role ${login(database.urls.service)} in database ${name()}`;
      await database.query(`alter ${subject} set ${setting} = ${value}`);
      await expect(keepSettingsBy(database.urls.service)).rejects.toThrow(
        new RegExp(
          `login of DATABASE_URL are not as the service needs them.*\n.*${setting} is "\\w+" instead of`,
        ),
      );
      await database.query(`alter ${subject} reset ${setting}`);
      await keepSettingsBy(database.urls.service);
    },
  );

  test('never commits faster than the disk, and leaves the rest of synchronous_commit to the operator', async () => {
    const commit = { name: 'commit', text: `select current_setting('synchronous_commit') as value` };
    const subject = `role ${login(database.urls.crossTenant)} in database ${name()}`;
    for (const [set, found] of [
      ['off', 'on'],
      ['local', 'local'],
      ['remote_apply', 'remote_apply'],
    ]) {
      await database.query(`alter ${subject} set synchronous_commit = ${set}`);
      const pools = openPools(database, 1);
      expect(await pools.engine.rows(commit)).toEqual([{ value: found }]);
      await pools.end();
    }
    await database.query(`alter ${subject} reset synchronous_commit`);
  });
});
