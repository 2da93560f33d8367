/*
 * Adds to package-lock.json the optional packages of other platforms that `npm install` leaves out when the registry at
 * hand does not serve them; `npm ci` refuses a lock without them (npm/cli#9846). Run it after every `npm install`.
 * What a package is for (os, cpu, libc) is read from its name, as these packages are named all over.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const SYSTEMS = new Set(
  'darwin linux win32 android freebsd openharmony openbsd netbsd sunos aix wasm32'.split(' '),
);
const PROCESSORS = new Set('arm64 x64 ia32 arm ppc64 riscv64 s390x loong64 wasm32'.split(' '));

const file = fileURLToPath(new URL('../package-lock.json', import.meta.url));
const lock = JSON.parse(readFileSync(file, 'utf8'));
const { '': root, ...packages } = lock.packages;

/** Whether a package that `from` asks for is in the lock, there or in a folder above. */
function isLocked(from, name) {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
    if (`${folder === '' ? '' : `${folder}/`}node_modules/${name}` in packages) return true;
    if (folder === '') return false;
  }
}

function entryOf(name, version, dev) {
  const parts = (name.split('/').at(-1) ?? '').split('-').concat(name.split('/').slice(1, -1));
  const os = parts.filter((part) => SYSTEMS.has(part)).slice(0, 1);
  const cpu = parts.filter((part) => PROCESSORS.has(part)).slice(0, 1);
  const libc = parts.includes('musl') ? ['musl'] : parts.includes('gnu') ? ['glibc'] : [];
  return {
    version,
    ...(cpu.length > 0 && { cpu }),
    ...(dev === true && { dev }),
    ...(libc.length > 0 && { libc }),
    optional: true,
    ...(os.length > 0 && { os }),
  };
}

const added = [];
for (const [path, { optionalDependencies = {}, dev }] of Object.entries(packages)) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    if (isLocked(path, name)) continue;
    packages[`node_modules/${name}`] = entryOf(name, version, dev);
    added.push(name);
  }
}
const sorted = Object.fromEntries(Object.entries(packages).sort(([a], [b]) => (a < b ? -1 : 1)));
if (added.length > 0) {
  writeFileSync(file, `${JSON.stringify({ ...lock, packages: { '': root, ...sorted } }, null, 2)}\n`);
}
console.log(added.length === 0 ? 'The lock is complete.' : `Added to the lock: ${added.join(', ')}.`);
