/*
 * Completes package-lock.json: `npm install` may leave out optional packages of other platforms, and then `npm ci`
 * refuses the lock there (npm/cli#9846); or it keeps them without `integrity`, and then nobody notices another file in
 * their place. Such entries are thrown away and resolved anew. Run it after every `npm install`.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const project = fileURLToPath(new URL('..', import.meta.url));
const file = `${project}package-lock.json`;
const read = () => JSON.parse(readFileSync(file, 'utf8'));

/** Whether a package that `from` asks for is in the lock, there or in a folder above. */
function isLocked(packages, from, name) {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
    if (`${folder === '' ? '' : `${folder}/`}node_modules/${name}` in packages) return true;
    if (folder === '') return false;
  }
}

/** What the lock lacks, as `name@version`. */
function lacking({ packages }) {
  return Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
    Object.entries(optionalDependencies)
      .filter(([name]) => !isLocked(packages, path, name))
      .map(([name, version]) => `${name}@${version}`),
  );
}

const lock = read();
for (const [path, { integrity, link, inBundle }] of Object.entries(lock.packages)) {
  // What is not in a node_modules is of this repository.
  const isFetched = path.includes('node_modules/') && !link && !inBundle;
  if (isFetched && integrity === undefined) delete lock.packages[path];
}
const dropped = lacking(lock);
if (dropped.length > 0) {
  writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
  const flags = ['--package-lock-only', '--ignore-scripts', '--omit-lockfile-registry-resolved'];
  const { status } = spawnSync('npm', ['install', ...flags, '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: project,
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
  if (status !== 0) process.exit(1);
}
const missing = lacking(read());
if (missing.length > 0) {
  console.error(`The registry at hand does not serve ${missing.join(', ')}: run this where it does.`);
  process.exit(1);
}
console.log(dropped.length === 0 ? 'The lock is complete.' : `Completed the lock: ${dropped.join(', ')}.`);
