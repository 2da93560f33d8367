import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { StartError } from '../core/errors.ts';

const run = promisify(execFile);

/** Under which identity PostgreSQL runs; empty means our own. */
export interface ServerUser {
  uid?: number;
  gid?: number;
}

/** PostgreSQL refuses to run as root. Started as root it runs as the system user `postgres`, made if missing. */
export async function findServerUser(): Promise<ServerUser> {
  if (process.getuid?.() !== 0) return {};
  const existing = await lookUp();
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
  const made = await lookUp();
  if (made !== undefined) return made;
  throw new StartError(
    'PostgreSQL does not run as root, and a user "postgres" could not be made: create one, start the service as another user, or set DATABASE_URL.',
  );
}

async function lookUp(): Promise<ServerUser | undefined> {
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', 'postgres']), run('id', ['-g', 'postgres'])]);
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  } catch {
    return undefined;
  }
}

/**
 * Whether `user` can go through every folder above `path` and read (a folder: enter) it. The user itself is
 * asked, so that access lists and mount options count too.
 */
export async function canReach(user: ServerUser, path: string): Promise<boolean> {
  if (user.uid === undefined) return true;
  try {
    await run('/bin/sh', ['-c', 'test -r "$1" && test -x "$1"', 'sh', path], { ...user, cwd: '/' });
    return true;
  } catch {
    return false;
  }
}
