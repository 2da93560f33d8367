import { withConnection } from './connection.ts';
import { loginOf, type DatabaseUrls } from './logins.ts';
import { StartError } from '../core/start-error.ts';

/*
 * What a login could do by itself or as any role that it can become. `pg_has_role` says 'member' for both, and for a
 * superuser always.
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
 * Refuses, with StartError, logins that could pass the wall between tenants: what the service asks for one of them is
 * to be shown that one only, even where a statement forgets to say which.
 */
export async function checkLogins({ service, engine }: DatabaseUrls): Promise<void> {
  if (loginOf(service).name === loginOf(engine).name)
    throw new StartError('DATABASE_URL and DATABASE_ENGINE_URL name the same login: each needs its own.');
  const places = [
    await inspect('DATABASE_URL', service, FAULTS_OF_SERVICE),
    await inspect('DATABASE_ENGINE_URL', engine, FAULTS_OF_BOTH),
  ];
  if (new Set(places).size > 1)
    throw new StartError('DATABASE_URL and DATABASE_ENGINE_URL lead to different databases.');
}

/** Throws if there are faults, and says which database it is. */
async function inspect(setting: string, url: string, faults: string): Promise<string> {
  return await withConnection({ url, name: 'tidings login check' }, async (client) => {
    const { rows } = await client.query<{ fault: string }>(`${REACH} ${faults}`);
    if (rows.length > 0)
      throw new StartError(
        `The login of ${setting} could pass the wall between tenants:\n${rows.map(({ fault }) => `  - ${fault}`).join('\n')}\nGive it a login of its own without special rights; docs/how-to/deploy.md tells how ("Database logins").`,
      );
    const place = await client.query<{ place: string }>(
      `select current_database() || pg_postmaster_start_time()::text as place`,
    );
    return place.rows[0]?.place ?? '';
  });
}
