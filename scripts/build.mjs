/* Builds `dist` when a source changed since the last build. Runs on whatever Node the machine has. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureInstalled } from './ensure-installed.mjs';
import { pinnedNode } from './pinned-node.mjs';

export const project = fileURLToPath(new URL('..', import.meta.url));

const dist = resolve(project, 'dist');
const notes = resolve(dist, '.built.json');

/** Every file that the build depends on, with what tells one version from another. */
function sources() {
  const code = ['src', 'migrations'].flatMap((folder) =>
    readdirSync(resolve(project, folder), { recursive: true }).map((file) => `${folder}/${file}`),
  );
  const files = [
    ...code.sort((a, b) => (a < b ? -1 : 1)),
    'tsconfig.json',
    'tsconfig.build.json',
    'package.json',
    'package-lock.json',
  ];
  return Object.fromEntries(
    files.map((file) => {
      const { mtimeMs, size } = statSync(resolve(project, file));
      // The time of a folder says nothing that its files do not.
      return [file, /\.\w+$/.test(file) ? `${mtimeMs} ${size}` : ''];
    }),
  );
}

function lastBuilt() {
  try {
    return JSON.parse(readFileSync(notes, 'utf8'));
  } catch {
    return undefined;
  }
}

export function build() {
  ensureInstalled();
  const now = sources();
  const before = lastBuilt();
  if (
    before !== undefined &&
    JSON.stringify(before) === JSON.stringify(now) &&
    existsSync(resolve(dist, 'src/main.js'))
  )
    return;
  // The compiler leaves the output of a source that is gone, and a list of files would still find it.
  if (before === undefined || Object.keys(before).some((file) => !(file in now)))
    rmSync(dist, { recursive: true, force: true });
  console.error('Building ...');
  const compiler = [resolve(project, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json'];
  const { status } = spawnSync(pinnedNode(project), compiler, {
    cwd: project,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (status !== 0) process.exit(1);
  // The compiler keeps its first line, by which it runs as the program `tidings`.
  chmodSync(resolve(dist, 'src/main.js'), 0o755);
  writeFileSync(notes, JSON.stringify(now));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) build();
