import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { appendFile, chmod, mkdtemp, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import {
  binariesIn,
  CLUSTER_OWNER,
  createCluster,
  findServerBinaries,
  findServerUser,
  give,
  reachableBinaries,
  type ServerBinaries,
  type ServerUser,
} from '../../src/postgres/server-home.ts';
import { ServerProcess, serverUrl, type ServerOptions } from '../../src/postgres/server-process.ts';
import { ownPort } from './own-port.ts';

/** Where the first server of a run, which outlives the others, has its programs: they may have been copied. */
const PROGRAMS = 'TIDINGS_TEST_PROGRAMS';

/** A server with real durability in a folder that goes with it. */
export interface ScratchServer {
  url(database: string): string;
  start(): Promise<void>;
  stop(): Promise<void>;
  kill(): Promise<void>;
  /**
   * A hot standby that follows it from now on, with the same passwords. This server is stopped for a moment to be copied, so
   * that no program is needed that the embedded PostgreSQL does not have.
   *
   * @param isAwaited each commit waits until the standby has it
   */
  standby(isAwaited: boolean): Promise<ScratchServer>;
  /** Stops the server if it runs and removes its folder. */
  remove(): Promise<void>;
}

/** What the databases of a run take at most, in bytes, and some more. */
const ROOM_IN_MEMORY = 4 * 1024 ** 3;
const MEMORY = '/dev/shm';

/** A folder for files that need not outlive the machine: in memory, where Linux has room there. */
export async function fastestFolder(): Promise<string> {
  const { bavail, bsize } = await statfs(MEMORY).catch(() => ({ bavail: 0, bsize: 0 }));
  return bavail * bsize >= ROOM_IN_MEMORY ? MEMORY : tmpdir();
}

/**
 * Makes a cluster in a temporary folder, in `place`, and starts it on a free port, which it keeps.
 *
 * @param programs of another PostgreSQL than the embedded one: the folder above `bin`
 */
export async function createScratchServer(
  parameters: Readonly<Record<string, string>>,
  place = tmpdir(),
  programs?: string,
): Promise<ScratchServer> {
  const user = await findServerUser();
  const folders = await makeFolders(place, user);
  const password = randomBytes(16).toString('hex');
  const binaries = programs === undefined ? await embeddedBinaries(folders.home, user) : binariesIn(programs);
  await createCluster({ home: folders.data, name: 'cluster', password, binaries, user });
  return await serve(folders, { port: await ownPort(), password, parameters, binaries, user });
}

interface Folders {
  readonly home: string;
  readonly data: string;
  readonly cluster: string;
  /** Ends what would remove them if this process ended now. */
  readonly dismissGuard: () => void;
}

async function makeFolders(place: string, user: ServerUser): Promise<Folders> {
  const [home, data] = await Promise.all(
    [tmpdir(), place].map((folder) => mkdtemp(join(folder, 'tidings-test-'))),
  );
  if (home === undefined || data === undefined) throw new Error('mkdtemp answered with nothing.');
  const cluster = join(data, 'cluster');
  const dismissGuard = guard(cluster, home, data);
  for (const folder of [home, data]) {
    await chmod(folder, 0o755);
    await give(folder, user);
  }
  return { home, data, cluster, dismissGuard };
}

/** Starts the server of a cluster. */
async function serve(
  { home, data, cluster, dismissGuard }: Folders,
  wanted: Omit<ServerOptions, 'cluster' | 'logFile'>,
): Promise<ScratchServer> {
  let options: ServerOptions = { ...wanted, cluster, logFile: join(home, 'server.log') };
  let server: ServerProcess | undefined = await ServerProcess.start(options);
  const end = async (how: 'stop' | 'kill') => {
    await server?.[how]();
    server = undefined;
  };
  return {
    url: (database) => serverUrl(options, database),
    start: async () => {
      server ??= await ServerProcess.start(options);
    },
    stop: () => end('stop'),
    kill: () => end('kill'),
    standby: async (isAwaited) => {
      await end('stop');
      const { port, password, parameters, user } = options;
      const copy = await makeFolders(dirname(data), user);
      await promisify(execFile)('cp', ['-a', cluster, copy.cluster]);
      const signal = join(copy.cluster, 'standby.signal');
      await writeFile(signal, '');
      await give(signal, user);
      // Not on its command line, so that a test can change it.
      await appendFile(
        join(copy.cluster, 'postgresql.auto.conf'),
        `primary_conninfo = 'host=127.0.0.1 port=${port} user=${CLUSTER_OWNER} password=${password}'\n`,
      );
      if (isAwaited) options = { ...options, parameters: { ...parameters, synchronous_standby_names: '*' } };
      server = await ServerProcess.start(options);
      return await serve(copy, { ...wanted, port: await ownPort() });
    },
    remove: async () => {
      await end('stop');
      dismissGuard();
      for (const folder of [home, data]) await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

async function embeddedBinaries(home: string, user: ServerUser): Promise<ServerBinaries> {
  const copied = process.env[PROGRAMS];
  const binaries =
    copied === undefined ? await reachableBinaries(home, findServerBinaries(), user) : binariesIn(copied);
  process.env[PROGRAMS] = binaries.root;
  return binaries;
}

/**
 * A test run that is interrupted runs no teardown. This shell outlives it by a moment: its input ends when we end,
 * in whatever way, and then it takes the server and the folders away.
 */
function guard(cluster: string, ...folders: readonly string[]): () => void {
  const script =
    'trap "" INT TERM HUP; cat >/dev/null; kill -QUIT "$(head -n 1 "$1/postmaster.pid")" 2>/dev/null && sleep 1; shift; rm -rf "$@"';
  const shell = spawn('/bin/sh', ['-c', script, 'sh', cluster, ...folders], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  shell.unref();
  if ('unref' in shell.stdin && typeof shell.stdin.unref === 'function') shell.stdin.unref();
  return () => {
    shell.kill('SIGKILL');
    shell.stdin.destroy();
  };
}
