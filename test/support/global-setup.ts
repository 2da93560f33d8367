import pg from 'pg';
import { ensureDatabase } from '../../src/postgres/embedded-server.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { urlsOf } from '../../src/postgres/roles.ts';
import { createScratchServer, fastestFolder, type ScratchServer } from './scratch-server.ts';
import { COUNTING } from './statement-log.ts';

/** The server of this run, for the teardown, which Jest runs in the same process. */
export const run: { server?: ScratchServer } = {};

/**
 * One PostgreSQL for the whole run, with a migrated database that every test's own is copied from. It is set up to be durable,
 * as the service asks; its disk is memory. Passwords are hashed once and not 4,096 times, since a run makes about that many
 * connections. A test of what a crash leaves has a server of its own (postgres-server.ts).
 */
export default async function setUp(): Promise<void> {
  const server = await createScratchServer(
    { max_connections: '400', scram_iterations: '1', ...COUNTING },
    await fastestFolder(),
  );
  run.server = server;
  const admin = new pg.Client({ connectionString: server.url('postgres') });
  await admin.connect();
  await admin.query('create extension pg_stat_statements');
  await ensureDatabase(admin, server.url('postgres'), 'tidings_template');
  await migrate(urlsOf(server.url('postgres'), 'tidings_template'));
  // A database that someone is connected to cannot be copied.
  await admin.query('alter database tidings_template allow_connections false is_template true');
  await admin.end();
  process.env['TIDINGS_TEST_SERVER'] = server.url('postgres');
}
