import pg from 'pg';
import { createDataSource } from './data-source.ts';

/** Any number will do, as long as every node takes the same one. */
const MIGRATION_LOCK = 7_469_001;

/**
 * Brings the tables up to date and returns the names of the migrations that ran, in order. TypeORM takes no lock
 * and one of two nodes that start together would die, so the lock is ours, on a connection of its own:
 * whoever comes second waits, and then finds nothing to do.
 */
export async function migrate(url: string): Promise<string[]> {
  const guard = new pg.Client({ connectionString: url, application_name: 'tidings migration lock' });
  // The connection may break while it only waits; what runs under the lock then fails by itself.
  guard.on('error', () => undefined);
  await guard.connect();
  try {
    await guard.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const source = await createDataSource(url).initialize();
    try {
      const ran = await source.runMigrations();
      return ran.map(({ name }) => name);
    } finally {
      await source.destroy();
    }
  } finally {
    await guard.end();
  }
}
