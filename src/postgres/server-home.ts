import { execFile } from 'node:child_process';
import {
  access,
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  realpath,
  rename,
  rm,
  rmdir,
  writeFile,
} from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { StartError } from '../core/start-error.ts';
import { give } from './create-cluster.ts';
import { binariesIn, type ServerBinaries } from './server-binaries.ts';
import { canReach, type ServerUser } from './server-user.ts';

const run = promisify(execFile);
const packageSchema = z.object({ version: z.string() });

/** Where databases go that cannot live in DATA_DIR; every user may enter it. */
const ELSEWHERE = '/var/lib/tidings-';

/**
 * The folder of the embedded server: `DATA_DIR/postgres`. As root the server runs as another user, who cannot enter
 * a clone below a closed home directory: then a folder under /var/lib, which `DATA_DIR/postgres-is-in` names.
 */
export async function findHome(
  dataDir: string,
  user: ServerUser,
  report: (line: string) => void,
): Promise<string> {
  const pointer = join(dataDir, 'postgres-is-in');
  const elsewhere = await readFile(pointer, 'utf8').catch(() => undefined);
  if (elsewhere !== undefined) {
    const home = elsewhere.trim();
    if (await exists(home)) return home;
    throw new StartError(
      `${pointer} says that the database is in ${home}, which is gone. Remove that file to begin with an empty one.`,
    );
  }
  const inside = join(dataDir, 'postgres');
  await mkdir(inside, { recursive: true, mode: 0o700 });
  await give(inside, user);
  if (await canReach(user, inside)) return inside;
  if (await exists(join(inside, 'cluster'))) {
    throw new StartError(
      `The database in ${inside} belongs to the user "postgres", who may no longer enter the folders above it: allow it (chmod o+x), or move DATA_DIR.`,
    );
  }
  await rmdir(inside);
  const home = await mkdtemp(ELSEWHERE);
  await give(home, user);
  await writeFile(pointer, `${home}\n`);
  report(
    `The database is kept in ${home}: PostgreSQL does not run as root, and its user cannot enter ${dataDir}.`,
  );
  return home;
}

/** The folder that everything is kept in, made if missing; the server's user must be able to pass through. */
export async function makeDataDir(path: string): Promise<string> {
  const made = await mkdir(path, { recursive: true });
  if (made !== undefined) await chmod(path, 0o755);
  return await realpath(resolve(path));
}

/** The programs themselves, or a copy in `home` when the server's user cannot reach `node_modules`. */
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

export async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
