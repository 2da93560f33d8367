import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, statfs, writeFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A file system of its own in memory, which a test can fill. */
export interface SmallDisk {
  readonly folder: string;
  /** Leaves so many bytes free for others. */
  fill(leaving: number): Promise<void>;
  /** Gives back what `fill` took. */
  empty(): Promise<void>;
  remove(): Promise<void>;
}

const FILLER = 'filler';

/** Undefined where this process may not mount: that takes root, and more than most containers give. */
export async function mountSmallDisk(bytes: number): Promise<SmallDisk | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'tidings-disk-'));
  // Its input ends when this process does, in whatever way; then the file system goes.
  const shell = spawn(
    '/bin/sh',
    [
      '-c',
      'trap "" INT TERM HUP; mount -t tmpfs -o size="$2",mode=755 none "$1" && echo mounted && cat >/dev/null && umount -l "$1"; rmdir "$1"',
      'sh',
      folder,
      String(bytes),
    ],
    { stdio: ['pipe', 'pipe', 'ignore'] },
  );
  const ended = once(shell, 'close');
  const mounted = await Promise.race([once(shell.stdout, 'data').then(() => true), ended.then(() => false)]);
  if (!mounted) return undefined;
  return {
    folder,
    fill: async (leaving) => {
      const { bavail, bsize } = await statfs(folder);
      await writeFile(join(folder, FILLER), Buffer.alloc(Math.max(0, bavail * bsize - leaving)), {
        flag: 'a',
      });
    },
    empty: async () => {
      await rm(join(folder, FILLER), { force: true });
    },
    remove: async () => {
      shell.stdin.end();
      await ended;
    },
  };
}
