import { readdirSync, readFileSync } from 'node:fs';

/* proc(5). The kernel counts in ticks of 10 ms: what is measured should take a second or more. */
const TICK_US = 10_000;

interface Stat {
  readonly parent: number;
  /** In µs; what children used that have ended and were waited for is in it. */
  readonly cpu: number;
}

function statOf(pid: number): Stat | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The name of the program stands in parentheses and may have anything in it.
    const fields = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    const [parent = 0, utime = 0, stime = 0, cutime = 0, cstime = 0] = [1, 11, 12, 13, 14].map(
      (n) => fields[n] ?? 0,
    );
    return { parent, cpu: (utime + stime + cutime + cstime) * TICK_US };
  } catch {
    // It has just ended.
    return undefined;
  }
}

/** A process and all below it. */
function treeOf(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    const parent = Number.isNaN(pid) ? undefined : statOf(pid)?.parent;
    if (parent !== undefined) children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const tree = [root];
  for (const pid of tree) tree.push(...(children.get(pid) ?? []));
  return tree;
}

/** CPU that a process and all below it have used so far, user and system, in µs. */
export function cpuOf(root: number): number {
  return treeOf(root).reduce((sum, pid) => sum + (statOf(pid)?.cpu ?? 0), 0);
}

/** Resident memory of a process and all below it, in bytes; what they share counts for each. */
export function memoryOf(root: number): number {
  return treeOf(root).reduce((sum, pid) => sum + residentOf(pid), 0);
}

function residentOf(pid: number): number {
  const [, kilobytes = '0'] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
  return Number(kilobytes) * 1024;
}
