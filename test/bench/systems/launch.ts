import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpuOf, memoryOf } from '../processes.ts';
import type { Running } from './system.ts';

/** Most that a yardstick takes to listen, in ms. */
const START_MS = 20_000;

/**
 * Starts a server of another make, in a process of its own, and waits until it listens on `port`.
 *
 * @param env all of its environment
 */
export async function launch(
  program: string,
  args: readonly string[],
  port: number,
  env: NodeJS.ProcessEnv = process.env,
): Promise<Running> {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], env });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const failed = new Promise<never>((_, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`${program} ended with ${String(code)}: ${said}`)));
  });
  // Once it has been stopped, that it ends is what was asked for.
  failed.catch(() => undefined);
  try {
    await Promise.race([failed, untilItListens(port)]);
  } catch (error) {
    await end(child);
    throw error;
  }
  const pid = child.pid ?? Number.NaN;
  return {
    port,
    cpu: () => Promise.resolve({ service: cpuOf(pid), database: 0 }),
    memory: () => Promise.resolve(memoryOf(pid)),
    settle: () => Promise.resolve(),
    stop: () => end(child),
  };
}

async function untilItListens(port: number): Promise<void> {
  for (const began = performance.now(); !(await listens(port)); await sleep(50))
    if (performance.now() - began > START_MS) throw new Error(`nobody listens on port ${port}`);
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
      .on('connect', () => {
        socket.destroy();
        resolve(true);
      })
      .on('error', () => resolve(false));
  });
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  const killed = setTimeout(() => child.kill('SIGKILL'), 5_000);
  await ended;
  clearTimeout(killed);
}
