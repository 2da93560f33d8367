import pg from 'pg';
import { testServer } from './database.ts';

/** What the server counts statements with; of each it keeps the text, whoever ran it and in whichever database. */
export const COUNTING = {
  shared_preload_libraries: 'pg_stat_statements',
  // More than the statements of a run times its databases: what does not fit is forgotten.
  'pg_stat_statements.max': '100000',
};

/**
 * What the service's login may run without a tenant: the messages that begin and end a transaction, the statement that
 * names the tenant, what TypeORM asks when it connects, and the checks before the start, which read the catalogue.
 */
const OF_NOBODY = [
  /^(?:begin|start transaction|commit|rollback|discard all)$/i,
  /^select (?:case when current_setting\(\$\d+, \$\d+\) is not null then )?set_config\(/,
  /^select version\(\)$/i,
  /^select \* from current_(?:schema|database)\(\)$/i,
  /^(?:set|show) /i,
  /\bpg_settings\b/,
  /^alter role session_user in database /,
  /^select pg_advisory_xact_lock\(\$1\)$/,
  /^select name, current_setting\(name, \$2\) /,
  /\bpg_roles\b/,
  /\bpg_postmaster_start_time\(\)/,
];

/** Where a tenant is named: in our SQL as `$1`, which the pool of the service's login fills in, and nobody else. */
const NAMES_TENANT = /\btenant_id\b[\s\S]*\$1|\$1[\s\S]*\btenant_id\b/;

/** Of all statements that ran on the server by the service's login, those that name no tenant. */
export async function statementsWithoutTenant(serverUrl: string): Promise<string[]> {
  const statements = await askServer<{ query: string }>(
    serverUrl,
    `select distinct s.query from pg_stat_statements s join pg_roles r on r.oid = s.userid where r.rolname = 'tidings_service'`,
  );
  return statements
    .map(({ query }) => query)
    .filter((query) => !NAMES_TENANT.test(query) && !OF_NOBODY.some((known) => known.test(query.trim())));
}

/** For a test that has asked as it liked in the name of the service's login: its database does not count. */
export async function forgetStatements(databaseUrl: string): Promise<void> {
  await askServer(
    testServer(),
    'select pg_stat_statements_reset(0, (select oid from pg_database where datname = $1), 0)',
    [nameOf(databaseUrl)],
  );
}

/** How often each statement of the service's login ran in a database so far, by its text; but for what sets a session up. */
export async function statementsRunIn(databaseUrl: string): Promise<Map<string, number>> {
  const statements = await askServer<{ query: string; calls: number }>(
    testServer(),
    `select s.query, sum(s.calls)::int as calls from pg_stat_statements s
     join pg_roles r on r.oid = s.userid join pg_database d on d.oid = s.dbid
     where r.rolname = 'tidings_service' and d.datname = $1 and s.query not like 'select case when current_setting(%' group by 1`,
    [nameOf(databaseUrl)],
  );
  return new Map(statements.map(({ query, calls }) => [query, calls]));
}

const nameOf = (databaseUrl: string): string => new URL(databaseUrl).pathname.slice(1);

async function askServer<Row extends pg.QueryResultRow>(
  url: string,
  sql: string,
  values: string[] = [],
): Promise<Row[]> {
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  try {
    return (await admin.query<Row>(sql, values)).rows;
  } finally {
    await admin.end();
  }
}
