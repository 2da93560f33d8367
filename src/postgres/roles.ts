import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import pg from 'pg';
import { readDatabaseUrl, type Login } from '../core/database-url.ts';
import { withConnection } from './connection.ts';
import { errorCode } from './errors.ts';
import { StartError } from '../core/errors.ts';

/**
 * The database as each of the three roles reaches it. None of them can become another:
 *
 * - the service role reads and writes for callers, and sees the rows of one tenant at a time;
 * - the cross-tenant role runs the statements that concern many tenants, on the tables and columns that those need. Its URL
 *   is DATABASE_ENGINE_URL;
 * - the owner changes tables. A service whose tables are up to date does not need it.
 *
 * What each may do is in privileges.ts.
 */
export interface DatabaseUrls {
  readonly service: string;
  readonly crossTenant: string;
  readonly owner: string | undefined;
}

/** The name and password of the role that a URL connects as. */
export const loginOf = (url: string): Login => readDatabaseUrl(url).login;

/** The names of the roles where the service chooses them. */
export const ROLE_NAMES = {
  service: 'tidings_service',
  crossTenant: 'tidings_engine',
  owner: 'tidings_owner',
} as const;

/**
 * The URLs of ROLE_NAMES on the server that `url` reaches as superuser. Their passwords are derived from the superuser's, so
 * that only that one has to be stored.
 */
export function urlsOf(url: string, database: string): DatabaseUrls & { readonly owner: string } {
  const { password } = loginOf(url);
  const as = (name: string) => {
    const other = new URL(url);
    other.username = name;
    other.password = createHmac('sha256', password).update(name).digest('hex');
    other.pathname = `/${database}`;
    return other.href;
  };
  return {
    service: as(ROLE_NAMES.service),
    crossTenant: as(ROLE_NAMES.crossTenant),
    owner: as(ROLE_NAMES.owner),
  };
}

/**
 * Creates the service role and the cross-tenant role that the URLs name, where they are missing.
 * @throws StartError if the owner may not create roles
 */
export async function ensureRoles(
  owner: pg.Client,
  { service, crossTenant }: Omit<DatabaseUrls, 'owner'>,
): Promise<void> {
  for (const login of [loginOf(service), loginOf(crossTenant)]) {
    try {
      await ensureRole(owner, login);
    } catch (error) {
      if (errorCode(error) !== '42501') throw error;
      throw new StartError(
        `There is no login ${login.name} in the database, and that of DATABASE_OWNER_URL may not create one. Have an administrator run: create role ${pg.escapeIdentifier(login.name)} login password '…'`,
        { cause: error },
      );
    }
  }
}

/** Creates a role that can log in, unless there is one of this name. */
export async function ensureRole(client: pg.Client, { name, password }: Login): Promise<void> {
  const { rowCount } = await client.query('select from pg_roles where rolname = $1', [name]);
  if (rowCount !== 0) return;
  const verifier = pg.escapeLiteral(scramVerifier(password));
  await client.query(`create role ${pg.escapeIdentifier(name)} login password ${verifier}`);
}

const ITERATIONS = 4096;

/** What the server stores of a password (RFC 5803). It is sent in place of the password, since servers log such statements. */
function scramVerifier(password: string): string {
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password, salt, ITERATIONS, 32, 'sha256');
  const keyed = (text: string) => createHmac('sha256', salted).update(text).digest();
  const stored = createHash('sha256').update(keyed('Client Key')).digest('base64');
  return `SCRAM-SHA-256$${ITERATIONS}:${salt.toString('base64')}$${stored}:${keyed('Server Key').toString('base64')}`;
}

/*
 * `reach` has the current role and those that it can become, which are those that `pg_has_role` calls 'member'; for a
 * superuser these are all. `mere` is the same, but empty where a superuser is among them: that fault is told by itself.
 */
const REACH = `
with reach as (
  select * from pg_roles where pg_has_role(current_user, oid, 'member')
), mere as (
  select * from reach where not exists (select from reach where rolsuper)
), tables as (
  select * from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
)`;

const FAULTS_OF_BOTH = `
select format('it can act as %s, which is not bound by row-level security', rolname) as fault from reach
where rolsuper or rolbypassrls
union all
select format('it can act as %s, which may make roles', rolname) from mere where rolcreaterole
union all
select format('it can act as the owner of the tables, %s', rolname) from mere
where oid in (select relowner from tables)
union all
select format('it can act as %s, the login of the %s', l.login, l.purpose) from database_logins l
join mere on rolname = l.login
where l.login <> current_user`;

const FAULTS_OF_SERVICE = `
${FAULTS_OF_BOTH}
union all
select format('row-level security is not forced on the table %s', relname) from tables
where not relispartition and not (relrowsecurity and relforcerowsecurity)
  and exists (select from pg_attribute where attrelid = tables.oid and attname = 'tenant_id')
union all
select format('the policy %s of the table %s shows it more than one tenant', polname, relname)
from pg_policy join tables on tables.oid = polrelid
where polname <> 'of_tenant' and polpermissive and (polroles = '{0}' or polroles && array(select oid from mere))
union all
select format('it can reach the partition %s past its table', relname) from tables
where relispartition and has_any_column_privilege(oid, 'select, insert, update, references')
  and exists (select from mere)`;

/**
 * Checks that neither role can break tenant isolation: even a statement that forgets to name its tenant must be shown the
 * rows of one tenant only.
 *
 * @throws StartError that names every fault
 */
export async function checkTenantIsolation({ service, crossTenant }: DatabaseUrls): Promise<void> {
  if (loginOf(service).name === loginOf(crossTenant).name)
    throw new StartError('DATABASE_URL and DATABASE_ENGINE_URL name the same login: each needs its own.');
  const databases = [
    await checkRole('DATABASE_URL', service, FAULTS_OF_SERVICE),
    await checkRole('DATABASE_ENGINE_URL', crossTenant, FAULTS_OF_BOTH),
  ];
  if (new Set(databases).size > 1)
    throw new StartError('DATABASE_URL and DATABASE_ENGINE_URL lead to different databases.');
}

/** @returns what identifies the database among others. @throws StartError if the role has faults */
async function checkRole(setting: string, url: string, faults: string): Promise<string> {
  return await withConnection({ url, name: 'tidings login check' }, async (client) => {
    const { rows } = await client.query<{ fault: string }>(`${REACH} ${faults}`);
    if (rows.length > 0)
      throw new StartError(
        `The login of ${setting} could break tenant isolation:\n${rows.map(({ fault }) => `  - ${fault}`).join('\n')}\nGive it a login of its own without special rights; docs/how-to/deploy.md tells how ("Database logins").`,
      );
    const { rows: databases } = await client.query<{ database: string }>(
      `select current_database() || pg_postmaster_start_time()::text as database`,
    );
    return databases[0]?.database ?? '';
  });
}
