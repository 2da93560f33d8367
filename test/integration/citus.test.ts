import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { scaleCitus } from '../../src/cli/scale-citus.ts';
import type { Terminal } from '../../src/cli/command.ts';
import { citusMoves, PLACES, SHARD_FUNCTIONS } from '../../src/postgres/citus.ts';
import { Pool, type Statement } from '../../src/postgres/pool.ts';
import { TenantPool } from '../../src/postgres/tenant-pool.ts';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { explain, type PlanNode } from '../support/plans.ts';
import type { Ran } from '../support/pools.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * What Citus needs of the tables and of the statements that serve people, seen on a plain PostgreSQL: no machine of this
 * project has Citus. docs/how-to/scale.md tells what that leaves open.
 */

/** What of the tables Citus would not take, as sentences. `$1`: where each table goes. */
const FAULTS = `
with place as (
  select key as name, value as place from json_each_text($1)
), tables as (
  select c.oid, c.relname as name, place.place from pg_class c left join place on place.name = c.relname
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
), spread as (
  select t.oid, t.name, a.attnum from tables t
  left join pg_attribute a on a.attrelid = t.oid and a.attname = 'tenant_id' and a.attnotnull
  where t.place = 'distributed'
)
select format('%s has no place', name) as fault from tables where place is null
union all
select format('%s has no tenant_id that is always there', name) from spread where attnum is null
union all
select format('the unique key %s is not per tenant', i.indexrelid::regclass)
from spread join pg_index i on i.indrelid = spread.oid and i.indisunique
where attnum is not null and not attnum = any (i.indkey)
union all
select format('the foreign key %s leaves its tenant', f.conname)
from pg_constraint f join tables t on t.oid = f.conrelid left join tables target on target.oid = f.confrelid
where f.contype = 'f' and (t.place = 'distributed' or target.place = 'distributed') and not (
  t.place = 'distributed' and target.place = 'reference'
  or exists (
    select from unnest(f.conkey, f.confkey) as k (own, other)
    join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.own and a.attname = 'tenant_id'
    join pg_attribute b on b.attrelid = f.confrelid and b.attnum = k.other and b.attname = 'tenant_id'))
union all
select format('%s has the trigger %s', t.name, g.tgname)
from pg_trigger g join tables t on t.oid = g.tgrelid where t.place <> 'local' and not g.tgisinternal
union all
select format('%s takes numbers from a sequence', t.name)
from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S' join tables t on t.oid = d.refobjid
where t.place <> 'local'
union all
select format('the policy %s of %s reads other tables', p.polname, t.name)
from pg_policy p join tables t on t.oid = p.polrelid
where t.place <> 'local' and pg_get_expr(p.polqual, p.polrelid) ilike '%select%'
order by 1`;

const faultsOf = async (client: pg.Client): Promise<string[]> =>
  (await client.query<{ fault: string }>(FAULTS, [JSON.stringify(PLACES)])).rows.map(({ fault }) => fault);

/** For the tables and the command, without a service. */
let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

describe('the tables', () => {
  let client: pg.Client;
  beforeAll(async () => {
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
  });
  afterAll(() => client.end());

  test('have keys with the tenant in each, and nothing that shards cannot have', async () => {
    expect(await faultsOf(client)).toEqual([]);
  });

  test.each([
    ['create table added (tenant_id text primary key)', 'added has no place'],
    ['alter table devices add column code text unique', 'the unique key devices_code_key is not per tenant'],
    ['create unique index on devices (user_id)', 'the unique key devices_user_id_idx is not per tenant'],
    [
      `alter table devices add unique (tenant_id, device_id), drop constraint devices_pkey, alter tenant_id drop not null`,
      'devices has no tenant_id that is always there',
    ],
    [
      'alter table tenants add column first text; alter table tenants add foreign key (first) references tenant_logs',
      'the foreign key tenants_first_fkey leaves its tenant',
    ],
    [
      'alter table devices add column place text references nodes, add column other text references tenant_logs',
      'the foreign key devices_other_fkey leaves its tenant',
    ],
    ['alter table devices add column number bigserial', 'devices takes numbers from a sequence'],
    [
      'create policy odd on devices using (exists (select from nodes))',
      'the policy odd of devices reads other tables',
    ],
    [
      'create trigger watched before delete on devices execute function audit_log_is_append_only()',
      'devices has the trigger watched',
    ],
  ])('a table that has not is found: %s', async (sql, fault) => {
    await client.query(`begin; ${sql}`);
    try {
      expect(await faultsOf(client)).toEqual([fault]);
    } finally {
      await client.query('rollback');
    }
  });
});

/** What runs now and then for all tenants of a node at once, and is nobody's publish, stream or acknowledgement. */
const OVER_TENANTS = new Set([
  'log_heads',
  'newest_positions',
  'exchange_connection_counts',
  'crowded_users',
]);

describe('the statements that serve people', () => {
  let service: Service;
  let ran: Ran[];
  beforeAll(async () => {
    service = await startService();
    ran = await statementsOf(service);
  });
  afterAll(() => service.close());

  /** By the superuser: the condition of row-level security is not one by which Citus could know the server. */
  const planOf = async (each: Ran): Promise<PlanNode> => {
    const { url, urls } = service.database;
    return await explain({ urls: { ...urls, service: url, crossTenant: url } }, each, ['generic_plan']);
  };

  test('are those of a publish, a stream, a resume and an acknowledgement', () => {
    expect(ran.map(({ statement }) => statement.name)).toEqual(
      expect.arrayContaining([
        'ensure_tenant',
        'append',
        'recall',
        'register_devices',
        'backlog',
        'acknowledge',
        'record_connections',
        'record_sends',
        'end_connections',
      ]),
    );
  });

  test('find rows of one tenant, which they name themselves', async () => {
    for (const each of ran) {
      if (OVER_TENANTS.has(each.statement.name)) continue;
      const plan = await planOf(each);
      expect([each.statement.name, wanderings(each, plan)]).toEqual([each.statement.name, []]);
    }
    const [over] = ran.filter(({ statement }) => statement.name === 'record_sends');
    if (over === undefined) throw new Error('it ran');
    const wandering = {
      ...over,
      statement: { name: 'w', text: 'select from sends where to_position > $2 and $1 > 0' },
    };
    expect(wanderings(wandering, await planOf(wandering))).not.toEqual([]);
    const adrift = {
      name: 'a',
      text: 'insert into sends (tenant_id) select user_id from devices where tenant_id = $1',
    };
    expect(insertsAdrift(adrift)).toEqual(['sends']);
  });

  test('join nothing that stays on the coordinator with what is distributed', async () => {
    for (const each of ran) {
      const places = tablesOf(await planOf(each)).map(placeOf);
      expect([each.statement.name, places]).not.toEqual([
        each.statement.name,
        expect.arrayContaining(['local', 'distributed']),
      ]);
    }
  });

  test('call functions that every server has', async () => {
    const functions = await service.database.query<{ name: string; signature: string; volatility: string }>(
      `select proname as name, oid::regprocedure::text as signature, provolatile as volatility
       from pg_proc where pronamespace = 'public'::regnamespace`,
    );
    const called = functions.filter(({ name }) =>
      ran.some(({ statement }) => new RegExp(`\\b${name}\\(`).test(statement.text)),
    );
    expect(
      called.map(({ signature }) => signature.replace('timestamp with time zone', 'timestamptz')),
    ).toEqual(SHARD_FUNCTIONS);
    for (const { volatility } of called) expect(volatility).toBe('i');
  });

  test('write no value of a function that Citus refuses in an update', async () => {
    const mutable = await service.database.query<{ name: string }>(
      `select proname as name from pg_proc group by 1 having bool_and(provolatile <> 'i')`,
    );
    const calls = new RegExp(`\\b(?:${mutable.map(({ name }) => name).join('|')})\\(`);
    for (const { statement } of ran) {
      const updates = statement.text.match(/\bset\b [\s\S]*?(?=\bwhere\b|\bfrom\b|\breturning\b|$)/g) ?? [];
      // The sign of life of a node writes the time, and serves nobody.
      if (!statement.name.startsWith('node_'))
        expect([statement.name, updates.filter((update) => calls.test(update))]).toEqual([
          statement.name,
          [],
        ]);
    }
  });
});

/** What stores ran meanwhile, each statement once. */
async function statementsOf(service: Service): Promise<Ran[]> {
  const ofTenants = jest.spyOn(TenantPool.prototype, 'rows');
  const ofAll = jest.spyOn(Pool.prototype, 'rows');
  const seen = (): Ran[] => {
    const ran = [
      ...ofTenants.mock.calls.map(([tenantId, statement, values = []]) => ({
        statement,
        values: [tenantId, ...values],
        tenantId,
      })),
      ...ofAll.mock.calls.map(([statement, values = []]) => ({ statement, values, tenantId: undefined })),
    ].filter(({ statement }) => tablesNamedIn(statement).length > 0);
    return [...new Map(ran.map((each) => [each.statement.name, each])).values()];
  };
  try {
    await serve(service);
    // What streams did is written some time after.
    return await eventually(() => {
      const ran = seen();
      for (const name of ['record_connections', 'record_sends', 'end_connections'])
        if (!ran.some(({ statement }) => statement.name === name)) throw new Error(`${name} did not run`);
      return ran;
    });
  } finally {
    ofTenants.mockRestore();
    ofAll.mockRestore();
  }
}

/** Publishes, one of them again; a stream that gets what it missed; an acknowledgement; the stream resumes. */
async function serve({ url }: Service): Promise<void> {
  const publisher = serviceToken({ tenant: 'acme', scope: 'notifications:publish notifications:broadcast' });
  const user = userToken({ tenant: 'acme', user: 'alice', topics: ['news'] });
  const first = await publish(url, publisher, { to: { user: 'alice' }, type: 't', data: 1 });
  const second = { to: { topic: 'news' }, type: 't', data: 2 };
  for (let n = 0; n < 2; n += 1)
    await post(`${url}/v1/notifications`, publisher, second, { 'idempotency-key': 'k' });
  const stream = await StreamClient.open(url, user);
  await stream.untilNotifications(2);
  const { status } = await post(`${url}/v1/acks`, user, { upTo: first.position });
  expect(status).toBe(204);
  await stream.cut();
  const resumed = await StreamClient.open(url, user, { lastEventId: first.position });
  await resumed.untilNotifications(1);
  await resumed.cut();
}

const tablesNamedIn = ({ text }: Statement): string[] =>
  Object.keys(PLACES).filter((table) => new RegExp(`\\b${table}\\b`).test(text));

/** A partition goes where its table goes. */
const placeOf = (table: string): string => PLACES[table.replace(/(?:_\d+)+$/, '')] ?? 'nowhere';

const tablesOf = (step: PlanNode): string[] => [
  ...(step['Relation Name'] === undefined ? [] : [step['Relation Name']]),
  ...(step.Plans ?? []).flatMap(tablesOf),
];

/** Where a statement reads or writes distributed rows without saying itself that they are of its one tenant. */
const wanderings = ({ statement }: Ran, plan: PlanNode): string[] => [
  ...scansAdrift(plan),
  ...insertsAdrift(statement),
];

function scansAdrift(step: PlanNode): string[] {
  const { 'Relation Name': table = '', 'Node Type': type } = step;
  const conditions = [step['Index Cond'], step['Recheck Cond'], step.Filter].join(' ');
  const adrift =
    type.endsWith('Scan') && placeOf(table) === 'distributed' && !/tenant_id = \(?\$1\b/.test(conditions);
  return [...(adrift ? [table] : []), ...(step.Plans ?? []).flatMap(scansAdrift)];
}

const insertsAdrift = ({ text }: Statement): string[] =>
  [
    ...text.matchAll(/\binsert into (\w+) \(tenant_id\b[^)]*\)\s*(?:select|values \()\s*(\S+?)[,\s)]/g),
  ].flatMap(([, table = '', tenant]) => (placeOf(table) === 'distributed' && tenant !== '$1' ? [table] : []));

describe('tidings scale-citus', () => {
  const SECRET = 'hunter2-of-the-owner';

  /** What it printed and reported, or the message of its error. */
  async function run(...args: string[]): Promise<{ out: string; told: string; error: string }> {
    const [out, told]: [string[], string[]] = [[], []];
    const terminal: Terminal = {
      input: (async function* () {})(),
      print: (text) => void out.push(text),
      report: (line) => void told.push(line),
    };
    const error = await scaleCitus(args, {}, terminal).then(
      () => '',
      (thrown: unknown) => (thrown instanceof Error ? thrown.message : String(thrown)),
    );
    const all = { out: out.join(''), told: told.join('\n'), error };
    expect(JSON.stringify(all)).not.toContain(SECRET);
    return all;
  }

  test('prints a script for people, or one line for programs, and connects to nothing', async () => {
    const { out, error } = await run('--dry-run');
    expect(error).toBe('');
    for (const [table, place] of Object.entries(PLACES)) {
      const moves = {
        distributed: 'create_distributed_table',
        reference: 'create_reference_table',
        local: '',
      };
      if (place !== 'local') expect(out).toContain(`${moves[place]}('public.${table}'`);
      else expect(out).not.toContain(`public.${table}`);
    }
    const { statements, tables } = JSON.parse((await run('--dry-run', '--json')).out) as Record<
      string,
      unknown
    >;
    expect(tables).toEqual(PLACES);
    expect(statements).toEqual(
      expect.arrayContaining(citusMoves().flatMap(({ statements: each }) => [...each])),
    );
  });

  test.each([
    [[], /Give the URL of the owner, or set DATABASE_OWNER_URL/],
    [[`postgres://:${SECRET}@h/d`], /names no login/],
    [[`mysql://o:${SECRET}@h/d`], /begins with postgres:/],
    [[`postgres://o:${SECRET}@h/d`, `postgres://o:${SECRET}@h/d`], /Give one URL/],
    [[`--url=postgres://o:${SECRET}@h/d`], /Unknown option '--url'/],
    [
      [`postgres://o:${SECRET}@127.0.0.1:1/d`],
      /The database at 127\.0\.0\.1:1\/d did not do it: .*ECONNREFUSED/,
    ],
  ])('says what is wrong, and no password: %#', async (args, sentence) => {
    expect((await run(...args)).error).toMatch(sentence);
  });

  test('refuses a database without Citus, and one with nodes at work', async () => {
    expect((await run(database.urls.owner)).error).toMatch(/has no Citus.*--dry-run/);
    await database.query(STAND_IN);
    await database.query(`insert into nodes (node, instance) values ('a', gen_random_uuid())`);
    expect((await run(database.urls.owner)).error).toMatch(/Nodes are at work on this database \(a\)/);
    await database.query('delete from nodes');
  });

  test('moves each table once, past row-level security, which holds again after', async () => {
    const moved = Object.keys(PLACES).filter((table) => PLACES[table] !== 'local');
    const { out, error } = await run(database.urls.owner, '--json');
    expect(error).toBe('');
    expect(JSON.parse(out)).toEqual({ moved });
    const calls = await database.query('select "table", place, together, forced from calls order by n');
    expect(calls).toEqual(
      moved.map((table) => ({
        table,
        place: PLACES[table],
        together:
          PLACES[table] === 'reference' ? null : table === 'tenant_logs' ? 'none' : 'public.tenant_logs',
        forced: false,
      })),
    );
    const bound = await database.query<{ name: string }>(
      `select relname as name from pg_class where relrowsecurity and relforcerowsecurity and relname = any($1)`,
      [moved],
    );
    expect(bound.map(({ name }) => name).sort()).toEqual(moved.filter((table) => table !== 'nodes').sort());
    expect((await run(database.urls.owner)).out).toMatch(/^Nothing to move/);
  });

  test('says it when shards lack policies, or rights on columns', async () => {
    await database.query(`
      create table shard (like devices including all);
      alter table shard enable row level security, force row level security;
      create policy of_tenant on shard using (true);
      alter table acks no force row level security`);
    await database.query(
      STAND_IN_SHARDS('case table_name::text when $$devices$$ then $$shard$$ else table_name::text end'),
    );
    const { error } = await run(database.urls.owner);
    expect(error).toMatch(
      /security does not hold on every shard of acks: .* rights on columns .* of devices:/,
    );
    expect(error).toMatch(/Do not start the service/);
  });
});

const STAND_IN_SHARDS = (shard: string): string => `
create or replace function run_command_on_shards(table_name regclass, command text)
returns table (shardid bigint, success boolean, result text) language plpgsql as $f$
begin
  execute format(command, ${shard}) into result;
  return query select 1::bigint, true, result;
end $f$`;

/** Functions with the names and results of those of Citus: they note who called, and a table is its only shard. */
const STAND_IN = `
create table pg_dist_partition (logicalrelid regclass);
create table calls (n serial, "table" text, place text, together text, forced boolean);
create function note(moved regclass, place text, together text) returns void language plpgsql as $f$
begin
  insert into calls ("table", place, together, forced)
  select relname, place, together, relforcerowsecurity from pg_class where oid = moved;
  insert into pg_dist_partition values (moved);
end $f$;
create function create_distributed_table(table_name regclass, distribution_column text, colocate_with text) returns void
language sql as $f$ select note(table_name, case distribution_column when 'tenant_id' then 'distributed' end, colocate_with) $f$;
create function create_reference_table(table_name regclass) returns void
language sql as $f$ select note(table_name, 'reference', null) $f$;
create function create_distributed_function(function_name regprocedure) returns void language sql as $f$ select $f$;
${STAND_IN_SHARDS('table_name')};
grant all on pg_dist_partition, calls, calls_n_seq to public`;
