import { spawn, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { describe } from '@jest/globals';
import { eventually } from './eventually.ts';

/**
 * `describe` for tests that need what not every machine has. Without it they are skipped and say so, or fail where all
 * programs are required.
 *
 * @param missing what is not there, as the beginning of a sentence; undefined: all is there
 */
export function describeUnless(missing: string | undefined): typeof describe | typeof describe.skip {
  if (missing === undefined) return describe;
  if (process.env['TIDINGS_REQUIRE_BROWSERS'] === '1') throw new Error(missing);
  // Jest shows no console output of files whose tests were all skipped.
  process.stderr.write(`Skipped: ${missing}.\n`);
  return describe.skip;
}

/** The same for a program, by its path. */
export const describeWith = (program: string) =>
  describeUnless(existsSync(program) ? undefined : `${program} is not installed`);

export interface Program {
  end(): Promise<void>;
}

/** Starts a server, and resolves when it takes connections on this port. It ends when this process does, in whatever way. */
export async function startProgram(
  command: readonly [string, ...string[]],
  port: number,
  options: SpawnOptions = {},
): Promise<Program> {
  // Its input ends when this process does; then the shell takes the program along.
  const shell = spawn(
    '/bin/sh',
    ['-c', 'trap "" INT TERM HUP; "$@" & cat >/dev/null; kill $!; wait', 'sh', ...command],
    { ...options, stdio: ['pipe', 'ignore', 'ignore'] },
  );
  const ended = once(shell, 'close');
  await eventually(async () => {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect').finally(() => socket.destroy());
  });
  return {
    end: async () => {
      shell.stdin?.end();
      await ended;
    },
  };
}
