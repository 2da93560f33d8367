import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { Config } from '../core/config.ts';
import { readDatabaseUrl } from '../core/database-url.ts';
import { withConnection } from './connection.ts';
import { EmbeddedServer } from './embedded-server.ts';
import { isConnectionLoss, reasonOf } from './errors.ts';
import { migrate, missingMigrations } from './migrate.ts';
import { warningOfPublicPrivileges } from './privileges.ts';
import { checkTenantIsolation, type DatabaseUrls } from './roles.ts';
import { keepSettings } from './session-settings.ts';
import { connectionsOf } from './sessions.ts';
import { StartError } from '../core/errors.ts';

/** Major version of PostgreSQL. */
const OLDEST_MAJOR = 15;
/** How long to wait for a database that is still starting. */
const PATIENCE_MS = 30_000;
/** How often it is asked meanwhile. */
const AGAIN_MS = 500;
/** Longest time for its first answer. */
const ANSWER_MS = 5_000;
/** Sessions that an embedded server has beside those of the nodes: for migrations, commands, an operator. */
const OTHER_SESSIONS = 30;

/** Where the database is, and how many sessions an embedded server needs. */
export type DatabaseSettings = Pick<
  Config,
  | 'DATABASE_URL'
  | 'DATABASE_ENGINE_URL'
  | 'DATABASE_OWNER_URL'
  | 'DATA_DIR'
  | 'DATABASE_CONNECTIONS_PER_POOL'
  | 'WORKERS'
>;

/** A database that is durable, migrated, and isolates tenants. */
export interface OpenDatabase {
  readonly urls: DatabaseUrls;
  /** Names of the migrations that ran just now. */
  readonly migrations: readonly string[];
  /** Stops the server if it is ours. */
  close(): Promise<void>;
}

/**
 * Opens the database of the settings, or the embedded server where they name none:
 *
 * 1. waits until it answers by each URL,
 * 2. migrates if it has the URL of the owner,
 * 3. checks that sessions are as the service needs them, that commits are durable, and that the roles cannot break tenant
 *    isolation.
 *
 * @param report told what an operator should know, a sentence at a time
 * @param stop ends the waiting with an AbortError
 * @throws StartError with a sentence for the operator
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
    // The owner first: its migration may create the other two roles.
    const { owner } = urls;
    if (owner !== undefined) await wait('DATABASE_OWNER_URL', owner);
    const ran = owner === undefined ? [] : await migrate({ ...urls, owner }, { report, stop });
    await wait('DATABASE_URL', urls.service);
    await wait('DATABASE_ENGINE_URL', urls.crossTenant);
    if (owner === undefined) await checkMigrated(urls.crossTenant);
    await setUpSessions('DATABASE_URL', urls.service);
    await setUpSessions('DATABASE_ENGINE_URL', urls.crossTenant);
    for (const warning of await checkDurability(urls.service)) report(warning);
    await checkTenantIsolation(urls);
    const left = await warningOfPublicPrivileges(urls.crossTenant);
    if (left !== undefined) report(left);
    if (server.isEmbedded) await freeNodeNames(urls.crossTenant);
    return { ...server, migrations: ran };
  } catch (error) {
    await server.close();
    throw error;
  }
}

async function setUpSessions(setting: string, url: string): Promise<void> {
  await withConnection({ url, name: 'tidings settings' }, (client) => keepSettings(client, setting));
}

async function checkMigrated(url: string): Promise<void> {
  const missing = await missingMigrations(url);
  if (missing.length === 0) return;
  throw new StartError(
    `The tables are not up to date (${missing.join(', ')}): run "tidings migrate" (here "npm run migrate") with DATABASE_OWNER_URL, or give that to the service.`,
  );
}

async function openServer(
  config: DatabaseSettings,
  report: (line: string) => void,
): Promise<Omit<OpenDatabase, 'migrations'> & { readonly isEmbedded: boolean }> {
  const { DATABASE_URL: service, DATABASE_ENGINE_URL: crossTenant, DATABASE_OWNER_URL: owner } = config;
  if (service !== undefined && crossTenant !== undefined)
    return { urls: { service, crossTenant, owner }, isEmbedded: false, close: async () => undefined };
  const connections = Math.max(100, connectionsOf(config) + OTHER_SESSIONS);
  const server = await EmbeddedServer.start({ dataDir: config.DATA_DIR, connections, report });
  return { urls: server.urls, isEmbedded: true, close: () => server.stop() };
}

/** Only this process uses the embedded server, so whoever else holds the name of a node was killed. */
async function freeNodeNames(url: string): Promise<void> {
  await withConnection({ url, name: 'tidings node names' }, (client) =>
    client.query('update nodes set instance = null'),
  );
}

/**
 * Waits for a database that was open before, for as long as it takes.
 *
 * @param report told, once, why it has to be waited for
 * @throws AbortError when it is told to stop
 */
export async function untilAnswers(
  url: string,
  report: (reason: string) => void,
  stop: AbortSignal,
): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await withConnection({ url, name: 'tidings start', answerTimeoutMs: ANSWER_MS }, checkVersion);
    } catch (error) {
      if (attempt === 1) report(reasonOf(error));
      await sleep(AGAIN_MS, undefined, { signal: stop });
    }
  }
}

/** Waits until a server answers by the URL of a setting. Its version is the first question, since older ones fail at others. */
async function waitFor(
  { setting, url }: { readonly setting: string; readonly url: string },
  report: (line: string) => void,
  stop: AbortSignal,
): Promise<void> {
  const place = `${readDatabaseUrl(url).place} (${setting})`;
  const deadline = Date.now() + PATIENCE_MS;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await withConnection({ url, name: 'tidings start', answerTimeoutMs: ANSWER_MS }, checkVersion);
    } catch (cause) {
      if (!isConnectionLoss(cause) || Date.now() > deadline) {
        throw new StartError(`The database at ${place} cannot be used: ${reasonOf(cause)}`, { cause });
      }
      if (attempt === 1)
        report(`The database at ${place} does not answer yet; trying for ${PATIENCE_MS / 1_000} seconds.`);
      await sleep(AGAIN_MS, undefined, { signal: stop });
    }
  }
}

async function checkVersion(client: pg.Client): Promise<void> {
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

/**
 * Refuses a server whose commits a crash can lose, although a 201 promises that they are on disk.
 *
 * Every `synchronous_commit` but `off` waits for the disk of the server itself; the others differ in what they ask of
 * standbys. The value is the one that sessions of the service begin with, so that one of the role, the database or the URL
 * counts.
 *
 * @returns warnings for the operator
 * @throws StartError
 */
export async function checkDurability(url: string): Promise<string[]> {
  const settings = await settingsAtStart(url);
  if (settings.get('server_encoding') !== 'UTF8') {
    throw new StartError(
      `The database is encoded in ${settings.get('server_encoding')}: create it with encoding UTF8.`,
    );
  }
  const off = ['fsync', 'synchronous_commit'].filter((name) => settings.get(name) === 'off');
  if (off.length > 0) {
    throw new StartError(
      `The database runs with ${off.join(' and ')} off: it would confirm notifications that a crash can lose. Turn ${off.length > 1 ? 'them' : 'it'} on.`,
    );
  }
  if (settings.get('full_page_writes') === 'off') {
    return [
      'The database runs with full_page_writes off: unless its file system never tears a page, a power cut can damage it.',
    ];
  }
  return [];
}

async function settingsAtStart(url: string): Promise<Map<string, string>> {
  const names = ['server_encoding', 'fsync', 'synchronous_commit', 'full_page_writes'];
  return await withConnection({ url, name: 'tidings durability check' }, async (client) => {
    // `reset_val` is what the session began with; `setting` is what the connection has set since (session-settings.ts).
    const { rows } = await client.query<{ name: string; setting: string }>(
      'select name, reset_val as setting from pg_settings where name = any($1)',
      [names],
    );
    return new Map(rows.map(({ name, setting }) => [name, setting]));
  });
}
