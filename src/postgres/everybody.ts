import type pg from 'pg';
import { withConnection } from './connection.ts';

/*
 * What PostgreSQL lets everybody do, and none of our logins needs: whoever makes one of them run SQL of theirs could keep
 * data past the policies, or fill the disk. `sql` takes it away; `mine`: the login that asks may do that.
 */
const GIVEN = `
select 'make temporary tables' as what,
  format('revoke temporary on database %I from public', datname) as sql, pg_has_role(datdba, 'usage') as mine
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

interface Given {
  readonly what: string;
  readonly sql: string;
  readonly mine: boolean;
}

/** Takes it away, as far as this login may. Rights on a database are its own: a restored copy has them anew. */
export async function takeFromEverybody(client: pg.Client): Promise<void> {
  const { rows } = await client.query<Given>(GIVEN);
  for (const { sql, mine } of rows) if (mine) await client.query(sql);
}

/** What the logins may still do, and who can change that, as a sentence for the operator; undefined: nothing. `url`: by the engine's login. */
export async function leftToEverybody(url: string): Promise<string | undefined> {
  return await withConnection({ url, name: 'tidings rights check' }, async (client) => {
    const { rows } = await client.query<Given>(GIVEN);
    if (rows.length === 0) return undefined;
    return `The logins of the service may ${rows.map(({ what }) => what).join(', ')} in this database, which they do not need. Have an administrator run there: ${rows.map(({ sql }) => sql).join('; ')}`;
  });
}
