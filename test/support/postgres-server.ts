import pg from 'pg';
import { ensureDatabase } from '../../src/postgres/embedded-server.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { urlsOf } from '../../src/postgres/roles.ts';
import type { DatabasePlace } from './database.ts';
import { createScratchServer, type ScratchServer } from './scratch-server.ts';

/** A PostgreSQL that one test may take away. `url` stays the same over stops and starts; the database is migrated. */
export interface PostgresServer extends DatabasePlace {
  /** Starts it again on the same port. */
  start(): Promise<void>;
  /** A clean stop that ends all sessions. */
  stop(): Promise<void>;
  /** SIGKILL: what was not on disk is gone. */
  kill(): Promise<void>;
  /** A server that follows it; see ScratchServer. */
  standby(isAwaited: boolean): Promise<PostgresServer>;
  /** For the end of the test: stops it and removes its files. */
  remove(): Promise<void>;
}

/** @param place the folder that its data lies below */
export async function startPostgres(
  parameters: Readonly<Record<string, string>> = {},
  place?: string,
): Promise<PostgresServer> {
  const server = await createScratchServer(parameters, place);
  const admin = new pg.Client({ connectionString: server.url('postgres') });
  await admin.connect();
  await ensureDatabase(admin, server.url('postgres'), 'tidings');
  await admin.end();
  await migrate(urlsOf(server.url('postgres'), 'tidings'));
  return asPostgres(server);
}

function asPostgres(server: ScratchServer): PostgresServer {
  return {
    url: server.url('tidings'),
    urls: urlsOf(server.url('postgres'), 'tidings'),
    start: () => server.start(),
    stop: () => server.stop(),
    kill: () => server.kill(),
    standby: async (isAwaited) => asPostgres(await server.standby(isAwaited)),
    remove: () => server.remove(),
  };
}
