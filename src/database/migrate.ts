import pg from 'pg';
import { migrations } from '../../migrations/migrations.ts';
import { createDataSource } from './data-source.ts';
import { ensureLogins, type DatabaseUrls } from './logins.ts';
import { errorCode } from './pool.ts';
import { grantPrivileges } from './privileges.ts';
import { StartError } from './start-error.ts';

/** Any number will do, as long as every node takes the same one. */
const MIGRATION_LOCK = 7_469_001;

/**
 * Brings the tables up to date and returns the names of the migrations that ran, in order. The logins of the service
 * and the engine are made if they are missing, and get their rights.
 *
 * TypeORM takes no lock and one of two nodes that start together would die, so the lock is ours, on a connection of
 * its own: whoever comes second waits, and then finds nothing to do.
 *
 * @throws StartError if the owner's login cannot do that
 */
export async function migrate(urls: DatabaseUrls & { readonly owner: string }): Promise<string[]> {
  const guard = new pg.Client({ connectionString: urls.owner, application_name: 'tidings migration lock' });
  // The connection may break while it only waits; what runs under the lock then fails by itself.
  guard.on('error', () => undefined);
  await guard.connect();
  try {
    await guard.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    await checkSchema(guard);
    await ensureLogins(guard, urls);
    const source = await createDataSource(urls.owner).initialize();
    try {
      const ran = await source.runMigrations();
      await grantPrivileges(guard, urls);
      return ran.map(({ name }) => name);
    } finally {
      await source.destroy();
    }
  } finally {
    await guard.end();
  }
}

/** The names of migrations that the tables lack, in order. `url`: by the engine's login. */
export async function missingMigrations(url: string): Promise<string[]> {
  const client = new pg.Client({ connectionString: url, application_name: 'tidings migration check' });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<{ name: string }>('select name from migrations');
    const ran = new Set(rows.map(({ name }) => name));
    return migrations.map(({ name }) => name).filter((name) => !ran.has(name));
  } catch (error) {
    // No table, or none that this login may see.
    if (!['42P01', '42501'].includes(errorCode(error) ?? '')) throw error;
    return migrations.map(({ name }) => name);
  } finally {
    await client.end();
  }
}

/** Policies, rights and functions name the tables with their schema, so that nothing else can take their place. */
async function checkSchema(owner: pg.Client): Promise<void> {
  const { rows } = await owner.query<{ schema: string | null }>('select current_schema() as schema');
  const schema = rows[0]?.schema ?? 'none';
  if (schema !== 'public')
    throw new StartError(
      `The tables belong into the schema public, and the login of DATABASE_OWNER_URL makes them in ${schema}: correct its search_path, or let it create in public.`,
    );
}
