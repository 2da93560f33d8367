/*
 * Installs what is missing before anything else runs, and returns in milliseconds when nothing is.
 * Plain JavaScript without dependencies: it has to run on whatever Node the machine has.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const project = resolve(import.meta.dirname ?? fileURLToPath(new URL('.', import.meta.url)), '..');

/** npm writes down what it installed, as its last step: so a broken-off installation counts as none. */
function isInstalled() {
  let installed;
  try {
    installed = JSON.parse(
      readFileSync(resolve(project, 'node_modules/.package-lock.json'), 'utf8'),
    ).packages;
  } catch {
    return false;
  }
  const wanted = JSON.parse(readFileSync(resolve(project, 'package-lock.json'), 'utf8')).packages;
  return Object.entries(wanted).every(([path, { version, optional }]) => {
    if (path === '') return true;
    const found = installed[path];
    // Optional packages are for other platforms where they are missing.
    return found === undefined ? optional === true : found.version === version;
  });
}

export function ensureInstalled() {
  if (isInstalled()) return;
  console.error('Installing what package-lock.json lists; this takes a minute, once ...');
  const flags = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'];
  const options = { cwd: project, stdio: ['ignore', 'inherit', 'inherit'] };
  const { npm_execpath: npm, npm_node_execpath: node = process.execPath } = process.env;
  // The Node in node_modules cannot install: it is replaced on the way. npm names the one that it runs on.
  const { status } =
    npm === undefined
      ? spawnSync('npm', flags, { ...options, shell: process.platform === 'win32' })
      : spawnSync(node, [npm, ...flags], options);
  if (status !== 0) {
    console.error('"npm ci" failed; see above.');
    process.exit(1);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) ensureInstalled();
