import type pg from 'pg';
import { StartError } from '../core/errors.ts';

/*
 * Where each table goes when Citus spreads the tenants of a database over several servers. docs/how-to/scale.md has the
 * reasons, and what in the statements of the service still stands in the way.
 */

/**
 * - `distributed`: by tenant, all of a tenant on one server, so that statements of one tenant stay there;
 * - `reference`: a copy on every server, since statements join it with distributed tables;
 * - `local`: on the coordinator alone.
 */
export type Place = 'distributed' | 'reference' | 'local';

export const PLACES: Readonly<Record<string, Place>> = {
  tenant_logs: 'distributed',
  notifications: 'distributed',
  idempotency_keys: 'distributed',
  devices: 'distributed',
  connections: 'distributed',
  sends: 'distributed',
  acks: 'distributed',
  inbox_users: 'distributed',
  inbox_marks: 'distributed',
  engagements: 'distributed',
  stream_tickets: 'distributed',
  tenants: 'reference',
  erasures: 'reference',
  nodes: 'reference',
  // The change feed reads them by the transaction ids of one server.
  issuers: 'local',
  revocations: 'local',
  stream_commands: 'local',
  // Its trigger could not be kept on shards without `citus.enable_unsafe_triggers`.
  audit_log: 'local',
  // Of all tenants at once, by every node.
  connection_counts: 'local',
  ticket_keys: 'local',
  database_logins: 'local',
  migrations: 'local',
};

/** What statements on distributed tables call. It does the same on every server. */
export const SHARD_FUNCTIONS: readonly string[] = ['position_at(timestamptz)'];

/** The table that the others are kept together with. */
const FIRST = 'tenant_logs';

/** One transaction: its statements, and the table that it moves. */
interface Move {
  readonly table: string;
  readonly statements: readonly string[];
}

/** What the owner of the tables runs on the coordinator, in this order. */
export function citusMoves(): Move[] {
  const moved = Object.entries(PLACES).filter(([, place]) => place !== 'local');
  return moved.map(([table, place]) => {
    const name = `public.${table}`;
    const together = table === FIRST ? 'none' : `public.${FIRST}`;
    const move =
      place === 'reference'
        ? `select create_reference_table('${name}')`
        : `select create_distributed_table('${name}', 'tenant_id', colocate_with => '${together}')`;
    const statements = hasTenant(table)
      ? // Citus copies the rows by COPY, which row-level security refuses: for a moment it does not bind the owner.
        [
          `alter table ${name} no force row level security`,
          move,
          `alter table ${name} force row level security`,
        ]
      : [move];
    return { table, statements: ["set local citus.multi_shard_modify_mode = 'sequential'", ...statements] };
  });
}

/** Nodes belong to no tenant, and have no policies. */
const hasTenant = (table: string): boolean => table !== 'nodes';

export const citusFunctions = (): string[] =>
  SHARD_FUNCTIONS.map((signature) => `select create_distributed_function('public.${signature}')`);

/**
 * Spreads the tables, each in a transaction of its own: what is spread already is passed over, so that whoever was stopped
 * can run it again. Returns the tables that it moved.
 *
 * @param owner connected to the coordinator by the login of the owner
 * @param report told of each step, a line at a time
 * @throws StartError with a sentence for the operator, or the driver's error
 */
export async function distribute(owner: pg.Client, report: (line: string) => void): Promise<string[]> {
  const there = await tablesOfCitus(owner);
  for (const statement of citusFunctions()) await owner.query(statement);
  const moves = citusMoves().filter(({ table }) => !there.has(table));
  for (const { table, statements } of moves) {
    report(`${table}: ${PLACES[table]}`);
    await inTransaction(owner, statements);
  }
  await checkShards(owner);
  return moves.map(({ table }) => table);
}

async function inTransaction(owner: pg.Client, statements: readonly string[]): Promise<void> {
  await owner.query('begin');
  try {
    for (const statement of statements) await owner.query(statement);
    await owner.query('commit');
  } catch (error) {
    await owner.query('rollback');
    throw error;
  }
}

/** @throws StartError with a sentence for the operator, when there is nothing to spread or no Citus */
export async function checkCitus(owner: pg.Client): Promise<void> {
  const [found] = await rowsOf<{ citus: boolean; tables: string[] }>(
    owner,
    `select to_regproc('create_distributed_table') is not null as citus,
       array(select relname::text from pg_class
             where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition order by 1) as tables`,
  );
  const tables = found?.tables ?? [];
  const missing = Object.keys(PLACES).filter((table) => !tables.includes(table));
  if (missing.length > 0)
    throw new StartError(
      `There are no tables to spread (${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing): run "tidings migrate" first.`,
    );
  if (found?.citus !== true)
    throw new StartError(
      'This database has no Citus. Have a superuser run "create extension citus" on every server and add the workers, or look at the statements with --dry-run.',
    );
}

/** Which tables Citus has already. */
async function tablesOfCitus(owner: pg.Client): Promise<ReadonlySet<string>> {
  const rows = await rowsOf<{ name: string }>(
    owner,
    `select c.relname as name from pg_dist_partition p join pg_class c on c.oid = p.logicalrelid
     where c.relnamespace = 'public'::regnamespace`,
  );
  return new Set(rows.map(({ name }) => name));
}

/** What a shard has to have of its table. `%s` is the shard, `$columns` on how many columns of the table somebody has rights. */
const SHARD_FAULT = `
select case
    when not (relrowsecurity and relforcerowsecurity and exists (select from pg_policy where polrelid = c.oid)) then 'policies'
    when (select count(*) from pg_attribute where attrelid = c.oid and attnum > 0 and attacl is not null) <> $columns then 'rights'
    else 'none'
  end
from pg_class c where c.oid = '%s'::regclass`;

/**
 * A shard without its policies would show the service's login the tenants beside the one that is asked about. Without its
 * rights it would refuse the engine's, which has most of them on columns.
 */
async function checkShards(owner: pg.Client): Promise<void> {
  const faulty = { policies: new Set<string>(), rights: new Set<string>() };
  for (const [table, place] of Object.entries(PLACES)) {
    if (place === 'local' || !hasTenant(table)) continue;
    const name = `public.${table}`;
    const [own] = await rowsOf<{ columns: number }>(
      owner,
      `select count(*)::int as columns from pg_attribute
       where attrelid = $1::regclass and attnum > 0 and attacl is not null`,
      [name],
    );
    const shards = await rowsOf<{ success: boolean; result: string }>(
      owner,
      'select success, result from run_command_on_shards($1::regclass, $2)',
      [name, SHARD_FAULT.replace('$columns', String(own?.columns))],
    );
    if (shards.length === 0) faulty.policies.add(table);
    for (const { success, result } of shards)
      if (!success || result === 'policies') faulty.policies.add(table);
      else if (result === 'rights') faulty.rights.add(table);
  }
  const sentences = [
    ...(faulty.policies.size === 0
      ? []
      : [
          `Row-level security does not hold on every shard of ${[...faulty.policies].join(', ')}: Citus keeps policies from version 11 on.`,
        ]),
    ...(faulty.rights.size === 0
      ? []
      : [
          `The rights on columns are not on every shard of ${[...faulty.rights].join(', ')}: Citus keeps them from version 13.1 on.`,
        ]),
  ];
  if (sentences.length > 0)
    throw new StartError([...sentences, 'Do not start the service on this database.'].join(' '));
}

async function rowsOf<Row extends pg.QueryResultRow>(
  owner: pg.Client,
  sql: string,
  values: readonly unknown[] = [],
): Promise<Row[]> {
  return (await owner.query<Row>(sql, [...values])).rows;
}
