import { execFile } from 'node:child_process';
import { chown, mkdtemp, open, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ServerBinaries } from './server-binaries.ts';
import type { ServerUser } from './server-user.ts';

const run = promisify(execFile);

/** The superuser of an embedded cluster, and the only user there is. */
export const CLUSTER_OWNER = 'tidings';

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
 * Makes a cluster in `home/name`. It grows in a folder of another name and is renamed when initdb has synced it,
 * so `home/name` either is a whole cluster or does not exist, whenever the process is killed.
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

/** Hands a file or folder to the server's user. */
export async function give(path: string, { uid, gid }: ServerUser): Promise<void> {
  if (uid !== undefined && gid !== undefined) await chown(path, uid, gid);
}

/** An initdb whose parent was killed may still be writing: it loses its folder and fails. */
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
