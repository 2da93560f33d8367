import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { StartError } from '../core/start-error.ts';
import { CLUSTER_OWNER } from './create-cluster.ts';
import { errorCode } from './errors.ts';
import type { ServerBinaries } from './server-binaries.ts';
import type { ServerUser } from './server-user.ts';

/** A fast stop writes a checkpoint; one that takes longer than this is cut short, and the next start recovers. */
const STOP_PATIENCE_MS = 30_000;

export interface ServerOptions {
  /** Folder of the cluster. */
  cluster: string;
  port: number;
  password: string;
  /** Server parameters beside the listening ones. */
  parameters?: Readonly<Record<string, string>>;
  /** File that the server's own log is appended to. */
  logFile: string;
  binaries: ServerBinaries;
  user: ServerUser;
}

/** The server ended before it answered; `output` is what it wrote to its log meanwhile. */
export class ServerStartError extends StartError {
  override readonly name = 'ServerStartError';
  readonly output: string;

  constructor(output: string) {
    super(`PostgreSQL did not start:\n${output.trim()}`);
    this.output = output;
  }
}

/** One running `postgres`, a child of this process in a session of its own. */
export class ServerProcess {
  readonly #child: ChildProcess;
  /** Resolves when the server has ended, for whatever reason. */
  readonly ended: Promise<void>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    // However this process ends, the server ends too: at once and by itself, to recover at its next start.
    const leave = () => child.kill('SIGQUIT');
    process.once('exit', leave);
    this.ended = new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      // A program that could not be started at all emits no exit.
      child.once('error', () => resolve());
    }).finally(() => process.off('exit', leave));
  }

  /**
   * Starts the server and waits until it takes connections; a recovery may take its time.
   * Throws ServerStartError when it gives up.
   */
  static async start(options: ServerOptions): Promise<ServerProcess> {
    const from = await logLength(options.logFile);
    const server = new ServerProcess(launch(options));
    const url = serverUrl(options, 'postgres');
    try {
      while (!(await answers(url))) {
        const ended = await Promise.race([server.ended.then(() => true), sleep(20, false)]);
        if (ended) throw new ServerStartError((await readFile(options.logFile)).subarray(from).toString());
      }
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  /** A stop that ends all sessions and leaves the cluster clean. */
  async stop(): Promise<void> {
    // While it runs it keeps no one alive; its end is waited for.
    this.#child.ref();
    this.#child.kill('SIGINT');
    const late = await Promise.race([
      this.ended.then(() => false),
      sleep(STOP_PATIENCE_MS, true, { ref: false }),
    ]);
    if (late) this.#child.kill('SIGQUIT');
    await this.ended;
  }

  /** A power cut, as far as the process is concerned. Its backends notice and follow. */
  async kill(): Promise<void> {
    this.#child.ref();
    this.#child.kill('SIGKILL');
    await this.ended;
  }
}

/** Where to connect; `password` and names need no escapes, they are hex and plain words. `sslmode` keeps PGSSLMODE of the environment out. */
export function serverUrl(
  { port, password }: Pick<ServerOptions, 'port' | 'password'>,
  database: string,
): string {
  return `postgres://${CLUSTER_OWNER}:${password}@127.0.0.1:${port}/${database}?sslmode=disable`;
}

/** `wanted` if nothing listens there, else a port that the system chose. */
export async function freePort(wanted = 0): Promise<number> {
  const probe = createServer();
  try {
    probe.listen({ port: wanted, host: '127.0.0.1', exclusive: true });
    await once(probe, 'listening');
    const address = probe.address();
    if (address === null || typeof address === 'string')
      throw new Error('A listening TCP socket has a port.');
    return address.port;
  } catch (error) {
    if (wanted === 0) throw error;
    return await freePort();
  } finally {
    probe.close();
  }
}

function launch({ cluster, port, parameters = {}, logFile, binaries, user }: ServerOptions): ChildProcess {
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', ...parameters };
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const log = openSync(logFile, 'a', 0o600);
  try {
    // Detached: Ctrl-C in a terminal goes to everyone in its session, and the service must flush before this ends.
    const child = spawn(binaries.postgres, ['-D', cluster, '-p', String(port), ...flags], {
      ...user,
      cwd: cluster,
      // Nothing of ours is for the server: not its secrets, and not a PGDATA, a PGPORT or a language.
      env: { PATH: process.env['PATH'], LC_ALL: 'C' },
      detached: true,
      stdio: ['ignore', log, log],
    });
    child.unref();
    return child;
  } finally {
    closeSync(log);
  }
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return true;
  } catch (error) {
    // Class 28: a server answers, and does not know us. Waiting does not help.
    if (errorCode(error)?.startsWith('28') === true)
      throw new StartError('The password of the embedded PostgreSQL does not fit.', { cause: error });
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function logLength(path: string): Promise<number> {
  return await readFile(path).then(
    (content) => content.length,
    () => 0,
  );
}
