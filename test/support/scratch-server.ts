import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  binariesIn,
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
  const [home, data] = await Promise.all(
    [tmpdir(), place].map((folder) => mkdtemp(join(folder, 'tidings-test-'))),
  );
  if (home === undefined || data === undefined) throw new Error('mkdtemp answered with nothing.');
  const cluster = join(data, 'cluster');
  const dismissGuard = guard(cluster, home, data);
  const user = await findServerUser();
  const password = randomBytes(16).toString('hex');
  for (const folder of [home, data]) {
    await chmod(folder, 0o755);
    await give(folder, user);
  }
  const binaries = programs === undefined ? await embeddedBinaries(home, user) : binariesIn(programs);
  await createCluster({ home: data, name: 'cluster', password, binaries, user });
  const files = { cluster, logFile: join(home, 'server.log') };
  const options: ServerOptions = { ...files, port: await ownPort(), password, parameters, binaries, user };
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
