import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { Config } from '../core/config.ts';
import { checkLogins } from './check-logins.ts';
import { reasonOf, withConnection } from './connection.ts';
import { readDatabaseUrl } from '../core/database-url.ts';
import { checkDurability } from './durability.ts';
import { leftToEverybody } from './everybody.ts';
import { EmbeddedServer } from './embedded-server.ts';
import type { DatabaseUrls } from './logins.ts';
import { keepSettings } from './login-settings.ts';
import { migrate, missingMigrations } from './migrate.ts';
import { isConnectionLoss } from './pool.ts';
import { StartError } from '../core/errors.ts';

/** Major version of PostgreSQL. */
const OLDEST_MAJOR = 15;
/** How long a database that is starting beside us may take. */
const PATIENCE_MS = 30_000;
/** How long it may take to answer once it is there. */
const ANSWER_MS = 5_000;
/** Pools of that many connections each (database.module.ts). */
const POOLS = 5;
/** Sessions beside the pools: migrations, listeners, an operator. */
const OTHER_SESSIONS = 30;

/** Where the database is, and how many sessions one of our own has to have room for. */
export type DatabaseSettings = Pick<
  Config,
  'DATABASE_URL' | 'DATABASE_ENGINE_URL' | 'DATABASE_OWNER_URL' | 'DATA_DIR' | 'DATABASE_CONNECTIONS_PER_POOL'
>;

/** A database that is durable, migrated, and walled. */
export interface OpenDatabase {
  readonly urls: DatabaseUrls;
  /** Names of the migrations that ran just now. */
  readonly migrations: readonly string[];
  /** Stops the server if it is ours. */
  close(): Promise<void>;
}

/**
 * Opens the database of the settings or the embedded server: waits for it by each URL, migrates if the owner's login is at hand,
 * and checks that its sessions are as the service needs them, that it keeps what it commits, and that its logins cannot pass
 * the wall between tenants.
 * Throws StartError with a sentence for the operator; `stop` ends the waiting with an AbortError.
 */
export async function openDatabase(
  config: DatabaseSettings,
  report: (line: string) => void,
  stop: AbortSignal = new AbortController().signal,
): Promise<OpenDatabase> {
  const server = await openServer(config, report);
  const wait = (setting: string, url: string) => waitFor({ setting, url }, report, stop);
  try {
    const { urls } = server;
    // The owner's first: what it does may make the logins of the others.
    const { owner } = urls;
    if (owner !== undefined) await wait('DATABASE_OWNER_URL', owner);
    const ran = owner === undefined ? [] : await migrate({ ...urls, owner });
    await wait('DATABASE_URL', urls.service);
    await wait('DATABASE_ENGINE_URL', urls.engine);
    if (owner === undefined) await checkTables(urls.engine);
    await keepSettings('DATABASE_URL', urls.service);
    await keepSettings('DATABASE_ENGINE_URL', urls.engine);
    for (const warning of await checkDurability(urls.service)) report(warning);
    await checkLogins(urls);
    const left = await leftToEverybody(urls.engine);
    if (left !== undefined) report(left);
    if (server.isOurs) await freeNodeNames(urls.engine);
    return { ...server, migrations: ran };
  } catch (error) {
    await server.close();
    throw error;
  }
}

async function checkTables(url: string): Promise<void> {
  const missing = await missingMigrations(url);
  if (missing.length === 0) return;
  throw new StartError(
    `The tables are not up to date (${missing.join(', ')}): run "tidings migrate" (here "npm run migrate") with DATABASE_OWNER_URL, or give that to the service.`,
  );
}

async function openServer(
  config: DatabaseSettings,
  report: (line: string) => void,
): Promise<Omit<OpenDatabase, 'migrations'> & { readonly isOurs: boolean }> {
  const { DATABASE_URL: service, DATABASE_ENGINE_URL: engine, DATABASE_OWNER_URL: owner } = config;
  if (service !== undefined && engine !== undefined)
    return { urls: { service, engine, owner }, isOurs: false, close: async () => undefined };
  const connections = Math.max(100, POOLS * config.DATABASE_CONNECTIONS_PER_POOL + OTHER_SESSIONS);
  const server = await EmbeddedServer.start({ dataDir: config.DATA_DIR, connections, report });
  return { urls: server.urls, isOurs: true, close: () => server.stop() };
}

/** Nobody else can be on a server of our own: a process that was killed has its name no longer. */
async function freeNodeNames(url: string): Promise<void> {
  await withConnection({ url, name: 'tidings node names' }, (client) =>
    client.query('update nodes set instance = null'),
  );
}

/** Waits until a server answers by the URL of a setting, and asks first of all whether it is new enough. */
async function waitFor(
  { setting, url }: { readonly setting: string; readonly url: string },
  report: (line: string) => void,
  stop: AbortSignal,
): Promise<void> {
  const place = `${readDatabaseUrl(url).place} (${setting})`;
  const deadline = Date.now() + PATIENCE_MS;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await withConnection(
        { url, name: 'tidings start', answerTimeoutMs: ANSWER_MS },
        refuseOldServer,
      );
    } catch (cause) {
      if (!isConnectionLoss(cause) || Date.now() > deadline) {
        throw new StartError(`The database at ${place} cannot be used: ${reasonOf(cause)}`, { cause });
      }
      if (attempt === 1)
        report(`The database at ${place} does not answer yet; trying for ${PATIENCE_MS / 1_000} seconds.`);
      await sleep(500, undefined, { signal: stop });
    }
  }
}

async function refuseOldServer(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ server_version_num: string }>('show server_version_num');
  const fault = faultOfVersion(Number(rows[0]?.server_version_num));
  if (fault !== undefined) throw new Error(fault);
}

/** What is wrong with a server of this `server_version_num`, for people: undefined if it is new enough. */
export function faultOfVersion(versionNumber: number): string | undefined {
  const major = Math.floor(versionNumber / 10_000);
  return major < OLDEST_MAJOR
    ? `it is PostgreSQL ${major}, and ${OLDEST_MAJOR} or newer is needed`
    : undefined;
}
