import { randomBytes } from 'node:crypto';
import { readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { z } from 'zod';
import { withConnection } from './connection.ts';
import { revokeFromPublic } from './privileges.ts';
import { ensureRole, loginOf, ROLE_NAMES, urlsOf, type DatabaseUrls } from './roles.ts';
import {
  createCluster,
  exists,
  findServerBinaries,
  findServerUser,
  locateHome,
  makeDataDir,
  makeHome,
  reachableBinaries,
} from './server-home.ts';
import {
  freePort,
  ServerProcess,
  ServerStartError,
  serverUrl,
  stopLeftoverServer,
  type ServerOptions,
} from './server-process.ts';
import { StartError } from '../core/errors.ts';

const DATABASE = 'tidings';
const LOG_LIMIT_BYTES = 10 * 1024 * 1024;
/** How long to wait for the backends of a killed server to release its shared memory. */
const ORPHAN_PATIENCE_MS = 15_000;

const secretsSchema = z.object({ port: z.number().int(), password: z.string() });

export interface EmbeddedServerOptions {
  /** DATA_DIR; made if missing. */
  dataDir: string;
  /** Sessions that the server has room for. */
  connections: number;
  /** Told what an operator should know, a sentence at a time. */
  report: (line: string) => void;
}

/**
 * The service's own PostgreSQL, under DATA_DIR and on loopback only. If it ends before `stop`, it is started again on the
 * same port.
 */
export class EmbeddedServer {
  readonly urls: DatabaseUrls & { readonly owner: string };
  readonly #options: ServerOptions;
  readonly #report: (line: string) => void;
  readonly #lock: FolderLock;
  readonly #stopping = new AbortController();
  readonly #watch: Promise<void>;
  #server: ServerProcess;

  private constructor(
    server: ServerProcess,
    options: ServerOptions,
    lock: FolderLock,
    report: (line: string) => void,
  ) {
    this.urls = urlsOf(serverUrl(options, 'postgres'), DATABASE);
    this.#server = server;
    this.#options = options;
    this.#lock = lock;
    this.#report = report;
    this.#watch = this.#keepRunning();
  }

  /**
   * Makes the cluster if there is none, stops the server that a killed run left behind, and starts one.
   *
   * @throws StartError, also if another process uses DATA_DIR
   */
  static async start({ dataDir, connections, report }: EmbeddedServerOptions): Promise<EmbeddedServer> {
    const folder = await makeDataDir(dataDir);
    const lock = lockFolder(folder);
    try {
      const user = await findServerUser();
      const home = await makeHome(folder, user, report);
      const binaries = await reachableBinaries(home, findServerBinaries(), user);
      const cluster = join(home, 'cluster');
      const secrets = await readSecrets(home);
      if (!(await exists(cluster)))
        await createCluster({ home, name: 'cluster', ...secrets, binaries, user });
      await stopLeftoverServer(cluster, report);
      const logFile = await prepareLog(home);
      const parameters = { max_connections: String(connections) };
      const wanted = { cluster, ...secrets, parameters, logFile, binaries, user };
      const { server, options } = await startOnFreePort(wanted);
      if (options.port !== secrets.port) await writeSecrets(home, options);
      const url = serverUrl(options, 'postgres');
      await withConnection({ url, name: 'tidings setup' }, (admin) => ensureDatabase(admin, url, DATABASE));
      return new EmbeddedServer(server, options, lock, report);
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  /** Ends all sessions, writes a checkpoint and frees the folder. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#server.stop();
    await this.#watch;
    this.#lock.release();
  }

  async #keepRunning(): Promise<void> {
    const { signal } = this.#stopping;
    for (;;) {
      await this.#server.ended;
      if (signal.aborted) return;
      this.#report('The embedded PostgreSQL ended by itself; it is started again.');
      while (!signal.aborted) {
        try {
          this.#server = await ServerProcess.start(this.#options);
          break;
        } catch {
          await sleep(500, undefined, { signal }).catch(() => undefined);
        }
      }
      // `stop` was called while this one was starting, and stopped only the one before.
      if (signal.aborted) return await this.#server.stop();
    }
  }
}

/** Where the embedded server under DATA_DIR answers, if a service is running it now. Starts and changes nothing. */
export async function findRunningServer(dataDir: string): Promise<DatabaseUrls | undefined> {
  const { home } = await locateHome(dataDir);
  const kept = await readFile(join(home, 'server.json'), 'utf8').catch(() => undefined);
  if (kept === undefined) return undefined;
  const url = serverUrl(secretsSchema.parse(JSON.parse(kept)), 'postgres');
  return await withConnection(
    { url, name: 'tidings look-up', connectTimeoutMs: 2_000, answerTimeoutMs: 2_000 },
    async () => urlsOf(url, DATABASE),
  ).catch(() => undefined);
}

/** Port and password are stored, so that a URL that somebody wrote down stays right. */
async function readSecrets(home: string): Promise<z.infer<typeof secretsSchema>> {
  const path = join(home, 'server.json');
  const kept = await readFile(path, 'utf8').catch(() => undefined);
  if (kept !== undefined) return secretsSchema.parse(JSON.parse(kept));
  if (await exists(join(home, 'cluster'))) {
    throw new StartError(
      `${path} is missing, and with it the password of the database beside it. Put it back, or move ${home} away to begin with an empty database.`,
    );
  }
  const secrets = { port: await freePort(), password: randomBytes(24).toString('hex') };
  await writeSecrets(home, secrets);
  return secrets;
}

async function writeSecrets(home: string, { port, password }: z.infer<typeof secretsSchema>): Promise<void> {
  const path = join(home, 'server.json');
  await writeFile(`${path}.new`, `${JSON.stringify({ port, password })}\n`, { mode: 0o600, flush: true });
  await rename(`${path}.new`, path);
}

async function startOnFreePort(
  wanted: ServerOptions,
): Promise<{ server: ServerProcess; options: ServerOptions }> {
  const deadline = Date.now() + ORPHAN_PATIENCE_MS;
  let { port } = wanted;
  for (;;) {
    const options = { ...wanted, port: await freePort(port) };
    try {
      return { server: await ServerProcess.start(options), options };
    } catch (error) {
      if (!(error instanceof ServerStartError) || Date.now() > deadline) throw error;
      if (/could not bind|could not create any TCP/.test(error.output)) port = 0;
      else if (/pre-existing shared memory block/.test(error.output)) await sleep(200);
      else throw error;
    }
  }
}

/**
 * Creates a database and the roles of `urlsOf`, where they are missing, on a server that is the service's own.
 *
 * @param admin a connection of the server's superuser
 * @param url how `admin` connected
 */
export async function ensureDatabase(admin: pg.Client, url: string, database: string): Promise<void> {
  const urls = urlsOf(url, database);
  for (const each of Object.values(urls)) await ensureRole(admin, loginOf(each));
  // Without it the server shows a role the age of no snapshots but its own.
  await admin.query(`grant pg_read_all_stats to ${ROLE_NAMES.crossTenant}, ${ROLE_NAMES.owner}`);
  const { rowCount } = await admin.query('select from pg_database where datname = $1', [database]);
  if (rowCount === 0)
    await admin.query(`create database ${pg.escapeIdentifier(database)} owner ${ROLE_NAMES.owner}`);
  const inside = new URL(url);
  inside.pathname = `/${database}`;
  await withConnection({ url: inside.href, name: 'tidings rights' }, revokeFromPublic);
}

/** The server only appends to its log. A start puts a large one aside. */
async function prepareLog(home: string): Promise<string> {
  const path = join(home, 'server.log');
  const { size } = await stat(path).catch(() => ({ size: 0 }));
  if (size > LOG_LIMIT_BYTES) await rename(path, `${path}.1`);
  return path;
}

/** Holds DATA_DIR for this process. */
export interface FolderLock {
  release(): void;
}

/**
 * Locks a folder against other processes. Node has no file locks of its own, but SQLite does: an open write transaction on
 * an empty database is a lock of the operating system. It ends with the process, however that ends, and the PostgreSQL
 * that the process starts does not inherit it.
 *
 * @throws StartError if another process holds it
 */
export function lockFolder(folder: string): FolderLock {
  const database = new DatabaseSync(join(folder, 'lock'), { timeout: 0 });
  try {
    database.exec('begin exclusive');
  } catch (cause) {
    database.close();
    throw new StartError(
      `Another Tidings is using ${folder}: stop it, or give this one a folder of its own with DATA_DIR.`,
      { cause },
    );
  }
  return { release: () => database.close() };
}
