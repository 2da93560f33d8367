import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { errorCode } from './errors.ts';
import { CLUSTER_OWNER, type ServerBinaries, type ServerUser } from './server-home.ts';
import { StartError } from '../core/errors.ts';

/** Longest time for a fast stop, which writes a checkpoint. After it the server is stopped at once, and its next start recovers. */
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
    // However this process ends, the server is told to end at once too; its next start recovers.
    const quit = () => child.kill('SIGQUIT');
    process.once('exit', quit);
    this.ended = new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      // A program that could not be started at all emits no exit.
      child.once('error', () => resolve());
    }).finally(() => process.off('exit', quit));
  }

  /**
   * Starts the server and waits until it takes connections, also through a long recovery.
   *
   * @throws ServerStartError if the server ends first
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

  /** PostgreSQL's fast stop: ends all sessions and writes a checkpoint. */
  async stop(): Promise<void> {
    // A running server does not keep this process alive; one that is stopping does.
    this.#child.ref();
    this.#child.kill('SIGINT');
    const late = await Promise.race([
      this.ended.then(() => false),
      sleep(STOP_PATIENCE_MS, true, { ref: false }),
    ]);
    if (late) this.#child.kill('SIGQUIT');
    await this.ended;
  }

  /** Kills the server like a power cut would. Its backends notice and end too. */
  async kill(): Promise<void> {
    this.#child.ref();
    this.#child.kill('SIGKILL');
    await this.ended;
  }
}

/**
 * Where to connect as superuser. Password and names are hex and plain words, which need no escapes. `sslmode` is given, or
 * PGSSLMODE of the environment would count.
 */
export function serverUrl(
  { port, password }: Pick<ServerOptions, 'port' | 'password'>,
  database: string,
): string {
  return `postgres://${CLUSTER_OWNER}:${password}@127.0.0.1:${port}/${database}?sslmode=disable`;
}

/** The port `wanted` if nothing listens there, else one that the system chooses. */
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
    // Detached: Ctrl-C in a terminal goes to every process of its session, and the service must flush before the server ends.
    const child = spawn(binaries.postgres, ['-D', cluster, '-p', String(port), ...flags], {
      ...user,
      cwd: cluster,
      // The environment of the service is not for the server: it has secrets, and may have PGDATA, PGPORT or a language.
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

/** Signals in the order of PostgreSQL's stop modes - fast, immediate, none - and how long each may take, in ms. */
const WAYS_TO_STOP = [
  ['SIGINT', 30_000],
  ['SIGQUIT', 10_000],
  ['SIGKILL', 5_000],
] as const;

/**
 * Stops the server that a killed run left behind on `cluster`, if there is one. We do not go on with it: it is no child of
 * ours, so we would not notice its end, and it has the parameters of that run. A `postmaster.pid` whose process is another
 * program by now is removed, because PostgreSQL would take that program for its server.
 *
 * @throws StartError if it does not end
 */
export async function stopLeftoverServer(cluster: string, report: (line: string) => void): Promise<void> {
  const pidFile = join(cluster, 'postmaster.pid');
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).split('\n')[0]);
  if (!Number.isSafeInteger(pid) || pid <= 0 || !isAlive(pid)) return;
  if (!(await isServerOf(pid, cluster))) {
    await rm(pidFile, { force: true });
    return;
  }
  report(`An earlier run left its PostgreSQL behind (process ${pid}); it is stopped first.`);
  for (const [signal, patienceMs] of WAYS_TO_STOP) {
    send(pid, signal);
    const deadline = Date.now() + patienceMs;
    while (Date.now() < deadline) {
      if (!isAlive(pid)) return;
      await sleep(20);
    }
  }
  throw new StartError(`The PostgreSQL that an earlier run left behind (process ${pid}) does not end.`);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: the process exists, and is another user's.
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended in between.
  }
}

/** A server names its cluster on its command line, which every user may read. */
async function isServerOf(pid: number, cluster: string): Promise<boolean> {
  if (process.platform === 'linux') {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    return words.includes('-D') && words.includes(cluster);
  }
  const { stdout } = await promisify(execFile)('ps', ['-ww', '-o', 'command=', '-p', String(pid)]);
  return stdout.includes(`-D ${cluster}`);
}
