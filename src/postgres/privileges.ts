import { createHash } from 'node:crypto';
import pg from 'pg';
import { loginOf, type DatabaseUrls } from './logins.ts';

/*
 * What each login may do, by table. A column is named where not the whole table is needed. `update` of a column that no
 * statement writes is there for row locks, which PostgreSQL gives to nobody else. Partitions have no rights of their own:
 * rows are reached through their table, whose policies then hold.
 */
type Rights = Readonly<Record<string, string>>;

/** Of one tenant at a time: the policy `of_tenant` sees to that. */
const SERVICE: Rights = {
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
  revocations: 'select, insert, delete',
  erasures: 'select, insert, update, delete',
  stream_commands: 'select, insert, delete',
  stream_tickets: 'select, insert, update (expires_at), delete',
  audit_log: 'select, insert',
  nodes: 'select',
};

/** Of every tenant, hence no payload and nothing that opens a door. */
const ENGINE: Rights = {
  tenants: 'select',
  tenant_logs: 'select (tenant_id, head, floor, removed_bytes), update (head, floor, removed_bytes)',
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
const ENGINE_FUNCTIONS = ['create_partition(text, text, bigint, bigint)', 'drop_partition(text)'];

/** Tables without a tenant have no policies. */
const WITHOUT_TENANT = new Set(['issuers', 'ticket_keys', 'nodes', 'migrations']);

const PURPOSES = ['service', 'engine'] as const;

/**
 * Gives the logins of the service and the engine what they need, and takes away what they had beyond it, in one
 * transaction. Does nothing where nothing has changed since the last time: rights belong to tables that others use.
 */
export async function grantPrivileges(
  owner: pg.Client,
  urls: Pick<DatabaseUrls, 'service' | 'engine'>,
): Promise<void> {
  const names = { service: loginOf(urls.service).name, engine: loginOf(urls.engine).name };
  const statements = statementsFor(names);
  const rights = createHash('sha256').update(statements.join(';')).digest('hex');
  const { rows: granted } = await owner.query<{ login: string; rights: string }>(
    'select login, rights from database_logins',
  );
  if (granted.length === PURPOSES.length && granted.every((one) => one.rights === rights)) return;
  await owner.query('begin');
  try {
    await revokeAll(owner, [...granted.map(({ login }) => login), ...Object.values(names)]);
    for (const statement of statements) await owner.query(statement);
    for (const purpose of PURPOSES)
      await owner.query(
        `insert into database_logins (purpose, login, rights) values ($1, $2, $3)
         on conflict (purpose) do update set login = excluded.login, rights = excluded.rights`,
        [purpose, names[purpose], rights],
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

function statementsFor(names: { readonly service: string; readonly engine: string }): string[] {
  const service = pg.escapeIdentifier(names.service);
  const engine = pg.escapeIdentifier(names.engine);
  const grants = (rights: Rights, login: string) =>
    Object.entries(rights).map(([table, what]) => `grant ${what} on public.${table} to ${login}`);
  const executes = (functions: readonly string[], login: string) =>
    functions.map((signature) => `grant execute on function public.${signature} to ${login}`);
  const policies = Object.keys(ENGINE)
    .filter((table) => !WITHOUT_TENANT.has(table))
    .flatMap((table) => [
      `drop policy if exists of_engine on public.${table}`,
      `create policy of_engine on public.${table} to ${engine} using (true) with check (true)`,
    ]);
  return [
    `grant usage on schema public to ${service}, ${engine}`,
    ...grants(SERVICE, service),
    ...grants(ENGINE, engine),
    ...executes(SERVICE_FUNCTIONS, service),
    ...executes(ENGINE_FUNCTIONS, engine),
    ...policies,
  ];
}
