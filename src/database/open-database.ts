import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Config } from '../config.ts';
import { checkDurability } from './durability.ts';
import { EmbeddedServer } from './embedded-server.ts';
import { migrate } from './migrate.ts';
import { errorCode, isConnectionLoss } from './pool.ts';
import { StartError } from './start-error.ts';

/** How long a database that is starting beside us may take. */
const PATIENCE_MS = 30_000;
/** Sessions beside the pools: migrations, listeners, an operator. */
const OTHER_SESSIONS = 30;

/** A database that is durable and migrated. */
export interface OpenDatabase {
  readonly url: string;
  /** Names of the migrations that ran just now. */
  readonly migrations: readonly string[];
  /** Stops the server if it is ours. */
  close(): Promise<void>;
}

/**
 * Opens DATABASE_URL or the embedded server: waits for it, checks that it keeps what it commits, and migrates.
 * Throws StartError with a sentence for the operator; `stop` ends the waiting with an AbortError.
 */
export async function openDatabase(
  config: Config,
  report: (line: string) => void,
  stop: AbortSignal = new AbortController().signal,
): Promise<OpenDatabase> {
  const server = await openServer(config, report, stop);
  try {
    for (const warning of await checkDurability(server.url)) report(warning);
    return { ...server, migrations: await migrate(server.url) };
  } catch (error) {
    await server.close();
    throw error;
  }
}

async function openServer(
  config: Config,
  report: (line: string) => void,
  stop: AbortSignal,
): Promise<Omit<OpenDatabase, 'migrations'>> {
  if (config.DATABASE_URL !== undefined) {
    await waitFor(config.DATABASE_URL, report, stop);
    return { url: config.DATABASE_URL, close: async () => undefined };
  }
  const pools =
    config.DATABASE_APPEND_CONNECTIONS +
    config.DATABASE_BACKLOG_CONNECTIONS +
    config.DATABASE_HISTORY_CONNECTIONS;
  const connections = Math.max(100, pools + OTHER_SESSIONS);
  const server = await EmbeddedServer.start({ dataDir: config.DATA_DIR, connections, report });
  return { url: server.url, close: () => server.stop() };
}

async function waitFor(url: string, report: (line: string) => void, stop: AbortSignal): Promise<void> {
  const { hostname, port, pathname } = new URL(url);
  const place = `${hostname}:${port === '' ? '5432' : port}${pathname}`;
  const deadline = Date.now() + PATIENCE_MS;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await connectOnce(url);
    } catch (cause) {
      // A name with several addresses fails with several errors, which have no message together, only a code.
      const reason = cause instanceof Error ? cause.message || errorCode(cause) : String(cause);
      if (!isConnectionLoss(cause) || Date.now() > deadline) {
        throw new StartError(`The database at ${place} cannot be used: ${reason}`, { cause });
      }
      if (attempt === 1)
        report(`The database at ${place} does not answer yet; trying for ${PATIENCE_MS / 1_000} seconds.`);
      await sleep(500, undefined, { signal: stop });
    }
  }
}

async function connectOnce(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
  } finally {
    await client.end().catch(() => undefined);
  }
}
