/* Which Node runs the service: the one that came with `npm ci`, else one of the machine that is new enough. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';

const MAJOR = 24;

/** Path of a Node of at least the pinned major. Ends the process with a sentence when there is none. */
export function pinnedNode(project) {
  const platform = process.platform === 'win32' ? 'win' : process.platform;
  const program = process.platform === 'win32' ? 'node.exe' : 'node';
  const own = resolve(project, `node_modules/node-${platform}-${process.arch}/bin`, program);
  for (const candidate of [own, process.execPath, 'node']) {
    if (candidate === own && !existsSync(own)) continue;
    const { stdout } = spawnSync(candidate, ['--version'], { encoding: 'utf8' });
    if (Number.parseInt((stdout ?? '').slice(1), 10) >= MAJOR) return candidate;
  }
  console.error(
    `Tidings needs Node ${MAJOR} or newer; this is ${process.version}, and npm has none to bring along for ${process.platform}-${process.arch}. Install it and try again.`,
  );
  return process.exit(1);
}
