import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { runStatement, type Statement } from '../../src/postgres/pool.ts';
import { TenantPool, TENANT_SETTING } from '../../src/postgres/tenant-pool.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { PARTITIONED } from '../../src/log/partitions.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { forgetStatements, statementsWithoutTenant } from '../support/statement-log.ts';

const acme = tenantIdSchema.parse('acme');
const globex = tenantIdSchema.parse('globex');

let database: TestDatabase;
let service: pg.Client;
/** Every table with a tenant, from the catalogue: one that is added later is asked, too. */
let tables: string[];

beforeAll(async () => {
  database = await createDatabase();
  tables = (
    await database.query<{ name: string }>(
      `select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
       where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1`,
    )
  ).map(({ name }) => name);
  for (const table of PARTITIONED)
    await database.query(`select create_partition($1, $1 || '_2020_01_01', 0, 353894400000)`, [table]);
  for (const tenant of [acme, globex]) for (const sql of ROWS) await database.query(sql, [tenant]);
  service = new pg.Client({ connectionString: database.urls.service });
  await service.connect();
});
afterAll(async () => {
  await service.end();
  await forgetStatements(database.url);
  await database.drop();
});

const ROWS = [
  `insert into tenants (tenant_id) values ($1)`,
  `insert into tenant_logs (tenant_id) values ($1)`,
  `insert into notifications (tenant_id, position, id, type, data, size, publisher) values ($1, 1, gen_random_uuid(), 't', '1', 1, 'p')`,
  `insert into idempotency_keys (tenant_id, publisher, key, fingerprint, first_position, ids) values ($1, 'p', 'k', '', 1, '{}')`,
  `insert into devices (tenant_id, user_id, device_id, cursor) values ($1, 'u', 'd', 0)`,
  `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position) values ($1, gen_random_uuid(), 'u', 'd', 'n', now(), 0)`,
  `insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed) values ($1, 'u', 'd', gen_random_uuid(), 0, 1, 0, now(), false)`,
  `insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume) values ($1, 'u', 'd', 0, 1, 0, false)`,
  `insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since) values ($1, 'u', 0, 1, 1, 1, 1)`,
  `insert into inbox_marks (tenant_id, user_id, position, read, read_revision) values ($1, 'u', 1, true, 1)`,
  `insert into engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class) values ($1, 'u', 'read', true, 0, 1, 0)`,
  `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at) values ($1, gen_random_uuid(), 'token', 'j', now())`,
  `insert into stream_commands (tenant_id, order_id, kind, expires_at) values ($1, gen_random_uuid(), 'disconnect', now())`,
  `insert into stream_tickets (tenant_id, hash, principal, expires_at) values ($1, '', '', now())`,
  `insert into erasures (tenant_id, erasure_id, digest, ordered_by, worker) values ($1, gen_random_uuid(), '', '{}', gen_random_uuid())`,
  `insert into connection_counts (tenant_id, node, connections) values ($1, 'n', 1)`,
  `insert into audit_log (tenant_id, audit_id, actor_subject, action, target) values ($1, gen_random_uuid(), 's', 'a', 't')`,
];

/** The tenants whose rows the service's login is shown in a table that it may read, as `tenant`. */
async function shown(table: string, tenant: string | undefined): Promise<string[]> {
  await service.query('begin');
  try {
    if (tenant !== undefined) await service.query(`select set_config('tidings.tenant', $1, true)`, [tenant]);
    const { rows } = await service.query<{ tenant_id: string }>(`select tenant_id from ${table}`);
    return rows.map((row) => row.tenant_id);
  } finally {
    await service.query('rollback');
  }
}

describe("by the service's login", () => {
  test('every table with a tenant has rows of two of them here', async () => {
    for (const table of tables)
      expect([table, await database.query(`select tenant_id from ${table} order by 1`)]).toEqual([
        table,
        [{ tenant_id: 'acme' }, { tenant_id: 'globex' }],
      ]);
  });

  test('a tenant that is named is shown its own rows, and nothing without a name', async () => {
    for (const table of tables) {
      expect([table, await shown(table, 'acme')]).toEqual([table, ['acme']]);
      expect([table, await shown(table, undefined)]).toEqual([table, []]);
      expect([table, await shown(table, '')]).toEqual([table, []]);
      expect([table, await shown(table, 'nobody')]).toEqual([table, []]);
    }
  });

  test.each([
    [`insert into tenant_logs (tenant_id) values ('initech')`, /row-level security/],
    [
      `insert into stream_commands (tenant_id, order_id, kind, expires_at) values ('globex', gen_random_uuid(), 'disconnect', now())`,
      /row-level security/,
    ],
    [
      `insert into tenants (tenant_id) values ('globex') on conflict (tenant_id) do update set status = 'suspended'`,
      /row-level security/,
    ],
    [`update tenants set tenant_id = 'globex'`, /row-level security/],
    [`delete from tenants`, /permission denied/],
    [`update notifications set data = '2'`, /permission denied/],
    [`update audit_log set target = 'x'`, /permission denied/],
    [`select * from issuers`, /permission denied/],
    [`select * from notifications_2020_01_01`, /permission denied/],
    [`alter table tenant_logs disable row level security`, /must be owner/],
    [`create policy mine on tenant_logs using (true)`, /must be owner/],
    [`set role tidings_engine`, /permission denied/],
    [`set role tidings_owner`, /permission denied/],
    [`select create_partition('acks', 'acks_1', 0, 1)`, /permission denied/],
    [`select drop_partition('acks_2020_01_01')`, /permission denied/],
    [`create table mine (a int)`, /permission denied/],
    [`set row_security = off; select * from tenant_logs`, /row-level security/],
  ])('%s is refused', async (sql, why) => {
    await service.query(`begin; select set_config('tidings.tenant', 'acme', true)`);
    await expect(service.query(sql)).rejects.toThrow(why);
    await service.query('rollback; reset row_security');
  });

  test('a statement about another tenant than the one that is named finds nothing', async () => {
    await service.query(`begin; select set_config('tidings.tenant', 'acme', true)`);
    const { rowCount } = await service.query(`update tenants set name = 'taken' where tenant_id = 'globex'`);
    await service.query('commit');
    expect(rowCount).toBe(0);
  });
});

test("by the owner's login no row is seen either, unless a tenant is named", async () => {
  const owner = new pg.Client({ connectionString: database.urls.owner });
  await owner.connect();
  try {
    for (const table of tables) {
      const { rows } = await owner.query(`select tenant_id from ${table}`);
      expect([table, rows]).toEqual([table, []]);
    }
  } finally {
    await owner.end();
  }
});

test('a statement that names no tenant is noticed at the end of a test run', async () => {
  await service.query('select count(*) from tenant_logs');
  const server = new URL(database.url);
  server.pathname = '/postgres';
  expect(await statementsWithoutTenant(server.href)).toContain('select count(*) from tenant_logs');
});

describe('by the cross-tenant role', () => {
  let engine: pg.Client;
  beforeAll(async () => {
    engine = new pg.Client({ connectionString: database.urls.crossTenant });
    await engine.connect();
  });
  afterAll(async () => {
    await engine.end();
  });

  test('every tenant is seen', async () => {
    const { rows } = await engine.query('select tenant_id, position from notifications order by 1');
    expect(rows).toHaveLength(2);
  });

  test.each([
    ['payloads', 'select data from notifications'],
    ['what a ticket grants', 'select principal from stream_tickets'],
    ['what a key answered', 'select ids from idempotency_keys'],
    ['acknowledgements', 'select * from acks'],
    ['what users read', 'select * from engagements'],
    ['acts', 'select * from audit_log'],
    ['a partition past its table', 'select * from notifications_2020_01_01'],
  ])('%s cannot be read', async (_, sql) => {
    await expect(engine.query(sql)).rejects.toMatchObject({ code: '42501' });
  });

  test.each([
    [`update notifications set position = 2`],
    [`delete from notifications`],
    [`set role tidings_service`],
    [`set role tidings_owner`],
    [`drop table acks_2020_01_01`],
    [`select drop_partition('tenant_logs')`],
    [`select create_partition('acks', 'tenant_logs', 0, 1)`],
    [`select create_partition('acks', 'sends_1', 0, 1)`],
    [`select create_partition('tenant_logs', 'tenant_logs_1', 0, 1)`],
  ])('%s is refused', async (sql) => {
    await expect(engine.query(sql)).rejects.toThrow(/permission denied|must be owner|partition/);
  });
});

describe('the name of the tenant', () => {
  /** One connection: whatever is left on it, the next one finds. */
  const open = (preparedStatements: boolean) =>
    new TenantPool({
      url: database.urls.service,
      name: 'test',
      connections: 1,
      connectTimeoutMs: 60_000,
      statementTimeoutMs: 60_000,
      preparedStatements,
    });
  const seen = {
    name: 'seen',
    text: `select $1 as asked, current_setting('tidings.tenant') as named, pg_backend_pid() as pid,
      array(select tenant_id from notifications) as tenants`,
  };
  const broken = { name: 'broken', text: 'select $1::text, 1 / $2::int as nothing' };

  test.each([[true], [false]])('is that of the statement, each time (prepared: %s)', async (prepared) => {
    const pool = open(prepared);
    const pids = new Set<unknown>();
    for (const tenant of [acme, globex, acme, globex]) {
      const [row] = await pool.rows<{ pid: number }>(tenant, seen);
      pids.add(row?.pid);
      expect(row).toMatchObject({ asked: tenant, named: tenant, tenants: [tenant] });
    }
    expect(pids.size).toBe(1);
    await pool.end();
  });

  test.each([[true], [false]])(
    'is gone with the statement, and with one that failed (prepared: %s)',
    async (prepared) => {
      const pool = open(prepared);
      await pool.rows(acme, seen);
      await pool.transaction(acme, async (run) => await run(acme, seen));
      await expect(pool.rows(acme, broken, [0])).rejects.toMatchObject({ code: '22012' });
      expect(await pool.rows(globex, seen)).toMatchObject([{ named: 'globex', tenants: ['globex'] }]);
      await pool.end();
    },
  );

  test.each([[true], [false]])('does not stay on the connection (prepared: %s)', async (prepared) => {
    const client = new pg.Client({ connectionString: database.urls.service });
    await client.connect();
    const settings = {
      statement: { name: 'name_tenant', text: `select set_config('${TENANT_SETTING}', $1, true)` },
      values: [acme],
    };
    const asked = (statement: Statement, values: unknown[] = []) =>
      runStatement(client, settings, statement, [acme, ...values], prepared);
    const left = async () =>
      (await client.query(`select current_setting('tidings.tenant', true) as named`)).rows;
    expect(await asked(seen)).toMatchObject([{ named: 'acme' }]);
    expect(await left()).toEqual([{ named: '' }]);
    await expect(asked(broken, [0])).rejects.toMatchObject({ code: '22012' });
    expect(await left()).toEqual([{ named: '' }]);
    expect(await shown('tenant_logs', undefined)).toEqual([]);
    await client.end();
  });

  test.each([['ends'], ['fails']])('does not stay on the connection when a transaction %s', async (how) => {
    const connecting = jest.spyOn(pg.Client.prototype, 'connect');
    const pool = open(true);
    const failure = new Error('on purpose');
    const error = await pool
      .transaction(acme, async (run) => {
        expect(await run(acme, seen)).toMatchObject([{ named: 'acme' }]);
        if (how === 'fails') throw failure;
      })
      .catch((thrown: unknown) => thrown);
    expect(error).toBe(how === 'fails' ? failure : undefined);
    const [client] = connecting.mock.contexts as unknown as pg.Client[];
    connecting.mockRestore();
    const left = await client?.query(`select current_setting('tidings.tenant', true) as named`);
    expect(left?.rows).toEqual([{ named: '' }]);
    await pool.end();
  });

  test('cannot be changed within a transaction', async () => {
    const pool = open(true);
    await expect(pool.transaction(acme, async (run) => await run(globex, seen))).rejects.toThrow(
      'a transaction of one tenant was asked about another',
    );
    await pool.end();
  });
});
