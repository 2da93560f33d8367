import { execFile } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { StartError } from '../core/errors.ts';

const run = promisify(execFile);

/** Signals in the order of PostgreSQL's stop modes - fast, immediate, none - and how long each may take, in ms. */
const WAYS_TO_STOP = [
  ['SIGINT', 30_000],
  ['SIGQUIT', 10_000],
  ['SIGKILL', 5_000],
] as const;

/**
 * Clears away what a killed run left in `cluster`. A server that still runs is stopped and not adopted: it is no
 * child of ours, so we would not hear of its end, and it has the parameters of that run. A `postmaster.pid` whose
 * number now belongs to another program is removed, since PostgreSQL would believe that program to be its server.
 */
export async function clearLeftovers(cluster: string, report: (line: string) => void): Promise<void> {
  const pidFile = join(cluster, 'postmaster.pid');
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).split('\n')[0]);
  if (!Number.isSafeInteger(pid) || pid <= 0 || !isAlive(pid)) return;
  if (!(await isServerOf(pid, cluster))) {
    await rm(pidFile, { force: true });
    return;
  }
  report(`An earlier run left its PostgreSQL behind (process ${pid}); it is stopped first.`);
  for (const [signal, patience] of WAYS_TO_STOP) {
    send(pid, signal);
    const deadline = Date.now() + patience;
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
    // EPERM: there is one, of another user.
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
  const { stdout } = await run('ps', ['-ww', '-o', 'command=', '-p', String(pid)]);
  return stdout.includes(`-D ${cluster}`);
}
