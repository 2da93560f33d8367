import { createHash } from 'node:crypto';
import pg from 'pg';
import { withConnection } from './connection.ts';
import { loginOf, type DatabaseUrls } from './roles.ts';

/*
 * What each role may do, by table. Columns are named where the role does not need the whole table. `update` of a column that
 * no statement writes is there for row locks, for which PostgreSQL requires it. Partitions have no privileges of their own:
 * rows are reached through their table, so that its policies hold.
 */
type Privileges = Readonly<Record<string, string>>;

/** The service role. The policy `of_tenant` shows it one tenant at a time. */
const SERVICE: Privileges = {
  tenants: 'select, insert, update',
  tenant_logs:
    'select, insert, update (head, abandoned, spent, spent_at, appended_bytes, removed_bytes), delete',
  notifications: 'select, insert, delete',
  idempotency_keys: 'select, insert, update (ids), delete',
  devices: 'select, insert, update, delete',
  connections: 'select, delete',
  connection_counts: 'select, delete',
  sends: 'select, delete',
  acks: 'select, insert, delete',
  inbox_users: 'select, insert, update, delete',
  inbox_marks: 'select, insert, update, delete',
  engagements: 'select, insert, delete',
  revocations: 'select, insert, delete',
  erasures: 'select, insert, update, delete',
  stream_commands: 'select, insert, delete',
  stream_tickets: 'select, insert, update (expires_at), delete',
  audit_log: 'select, insert',
  nodes: 'select',
};

/** The cross-tenant role. It sees every tenant, and therefore no payload, no ticket and no secret. */
const CROSS_TENANT: Privileges = {
  tenants: 'select',
  tenant_logs:
    'select (tenant_id, head, floor, removed_bytes, inbox_revision), update (head, floor, removed_bytes, inbox_revision)',
  notifications: 'select (tenant_id, position, size)',
  idempotency_keys: 'select (ctid, created_at), update (created_at), delete',
  devices:
    'select (tenant_id, user_id, device_id, cursor, last_seen_at), insert (tenant_id, user_id, device_id, cursor), update (cursor), delete',
  connections: 'select, insert, update (until, position, reason), delete',
  connection_counts: 'select, insert, update (connections), delete',
  sends: 'insert',
  revocations: 'select, update (expires_at), delete',
  stream_commands: 'select, update (expires_at), delete',
  stream_tickets: 'select (ctid, expires_at), update (expires_at), delete',
  erasures: 'select, update (expires_at), delete',
  audit_log: 'insert',
  issuers: 'select, insert, update',
  ticket_keys: 'select',
  nodes: 'select, insert, update, delete',
  migrations: 'select',
};

const SERVICE_FUNCTIONS = ['position_at(timestamptz)'];
const CROSS_TENANT_FUNCTIONS = ['create_partition(text, text, bigint, bigint)', 'drop_partition(text)'];

/** Tables whose rows belong to no tenant; they have no policies. */
const WITHOUT_TENANT = new Set(['issuers', 'ticket_keys', 'nodes', 'migrations']);

/**
 * Grants the service role and the cross-tenant role what they need, and revokes everything else, in one transaction. Does
 * nothing if nothing has changed since the last time, because it needs locks on tables that are in use.
 *
 * @param lockTimeoutMs how long it may wait for each of these locks
 */
export async function grantPrivileges(
  owner: pg.Client,
  urls: Omit<DatabaseUrls, 'owner'>,
  lockTimeoutMs: number,
): Promise<void> {
  const names = { service: loginOf(urls.service).name, crossTenant: loginOf(urls.crossTenant).name };
  // As the table `database_logins` calls them.
  const logins = Object.entries({ service: names.service, engine: names.crossTenant });
  const statements = statementsFor(names);
  const rights = createHash('sha256').update(statements.join(';')).digest('hex');
  const { rows: granted } = await owner.query<{ login: string; rights: string }>(
    'select login, rights from database_logins',
  );
  if (granted.length === logins.length && granted.every((one) => one.rights === rights)) return;
  await owner.query(`begin; set local lock_timeout = ${lockTimeoutMs}`);
  try {
    await revokeAll(owner, [...granted.map(({ login }) => login), ...Object.values(names)]);
    for (const statement of statements) await owner.query(statement);
    for (const [purpose, login] of logins)
      await owner.query(
        `insert into database_logins (purpose, login, rights) values ($1, $2, $3)
         on conflict (purpose) do update set login = excluded.login, rights = excluded.rights`,
        [purpose, login, rights],
      );
    await owner.query('commit');
  } catch (error) {
    await owner.query('rollback');
    throw error;
  }
}

async function revokeAll(owner: pg.Client, logins: readonly string[]): Promise<void> {
  const { rows } = await owner.query<{ login: string }>(
    'select rolname as login from pg_roles where rolname = any($1)',
    [logins],
  );
  for (const { login } of rows)
    for (const kind of ['tables', 'functions'])
      await owner.query(`revoke all on all ${kind} in schema public from ${pg.escapeIdentifier(login)}`);
}

function statementsFor(names: { readonly service: string; readonly crossTenant: string }): string[] {
  const service = pg.escapeIdentifier(names.service);
  const crossTenant = pg.escapeIdentifier(names.crossTenant);
  const grants = (privileges: Privileges, role: string) =>
    Object.entries(privileges).map(([table, what]) => `grant ${what} on public.${table} to ${role}`);
  const executes = (functions: readonly string[], role: string) =>
    functions.map((signature) => `grant execute on function public.${signature} to ${role}`);
  const policies = Object.keys(CROSS_TENANT)
    .filter((table) => !WITHOUT_TENANT.has(table))
    .flatMap((table) => [
      `drop policy if exists of_engine on public.${table}`,
      `create policy of_engine on public.${table} to ${crossTenant} using (true) with check (true)`,
    ]);
  return [
    `grant usage on schema public to ${service}, ${crossTenant}`,
    ...grants(SERVICE, service),
    ...grants(CROSS_TENANT, crossTenant),
    ...executes(SERVICE_FUNCTIONS, service),
    ...executes(CROSS_TENANT_FUNCTIONS, crossTenant),
    ...policies,
  ];
}

/*
 * What PostgreSQL lets every role do (PUBLIC) and ours do not need: somebody who injects SQL could store data where no
 * policy holds, or fill the disk. `sql` revokes it; `may`: whether the current role may run that.
 */
const PUBLIC_PRIVILEGES = `
select 'make temporary tables' as what,
  format('revoke temporary on database %I from public', datname) as sql, pg_has_role(datdba, 'usage') as may
from pg_database where datname = current_database() and has_database_privilege('public', oid, 'temporary')
union all
select 'make tables of their own', 'revoke create on schema public from public', pg_has_role(nspowner, 'usage')
from pg_namespace where nspname = 'public' and has_schema_privilege('public', oid, 'create')
union all
select 'make large objects',
  format('revoke execute on function %s from public', string_agg(oid::regprocedure::text, ', ' order by proname, oid)),
  bool_and(pg_has_role(proowner, 'usage'))
from pg_proc
where pronamespace = 'pg_catalog'::regnamespace and proname in ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import')
  and has_function_privilege('public', oid, 'execute')
having count(*) > 0`;

interface PublicPrivilege {
  readonly what: string;
  readonly sql: string;
  readonly may: boolean;
}

/**
 * Revokes what PUBLIC has and our roles do not need, as far as this role may. It is done with every migration, since a
 * restored copy of a database has the defaults again.
 */
export async function revokeFromPublic(client: pg.Client): Promise<void> {
  const { rows } = await client.query<PublicPrivilege>(PUBLIC_PRIVILEGES);
  for (const { sql, may } of rows) if (may) await client.query(sql);
}

/**
 * What could not be revoked, and what an administrator has to run, as a sentence for the operator. Undefined if nothing is
 * left.
 *
 * @param url of the cross-tenant role
 */
export async function warningOfPublicPrivileges(url: string): Promise<string | undefined> {
  return await withConnection({ url, name: 'tidings rights check' }, async (client) => {
    const { rows } = await client.query<PublicPrivilege>(PUBLIC_PRIVILEGES);
    if (rows.length === 0) return undefined;
    return `The logins of the service may ${rows.map(({ what }) => what).join(', ')} in this database, which they do not need. Have an administrator run there: ${rows.map(({ sql }) => sql).join('; ')}`;
  });
}
