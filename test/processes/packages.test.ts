import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publint } from 'publint';

/* What `npm publish` would send of each package: whoever installs it gets this, and no more. */

const KIB = 1_024;

interface Expected {
  readonly name: string;
  /** What is imported from it, and what that gives, of its exports. */
  readonly entries: Readonly<Record<string, readonly string[]>>;
  /** Files for `<script>`, which `exports` names, too. */
  readonly scripts: readonly string[];
  /** How large a file may be, in bytes, compressed by gzip. */
  readonly budgets: Readonly<Record<string, number>>;
}

const PACKAGES: readonly Expected[] = [
  {
    name: 'client',
    entries: {
      index: ['createTidings'],
      publisher: ['createPublisher', 'PublishError'],
      testing: ['createFakeService', 'createFakeBrowser', 'createFakeClock'],
    },
    scripts: ['tidings.iife.js'],
    // Meant are 10 KiB.
    budgets: { 'tidings.iife.js': 13 * KIB },
  },
];

const project = resolve(import.meta.dirname, '../..');
const run = async (program: string, parameters: readonly string[], cwd = project) =>
  (await promisify(execFile)(program, parameters, { cwd })).stdout;

/** Where it is installed, as it was packed. */
let installed: string;
beforeAll(async () => {
  installed = mkdtempSync(join(tmpdir(), 'tidings-packages-'));
  await run('npm', ['run', 'build:packages']);
});
afterAll(() => {
  rmSync(installed, { recursive: true });
});

describe.each(PACKAGES)('@tidings/$name', ({ name, entries, scripts, budgets }) => {
  const names = Object.keys(entries);
  let tarball: Buffer;
  let folder: string;
  let files: readonly string[];
  beforeAll(async () => {
    // What its scripts print would stand before the JSON, and they have run.
    const packing = ['pack', '--json', '--ignore-scripts', '--pack-destination', installed];
    const [packed] = JSON.parse(await run('npm', [...packing, '-w', `packages/${name}`])) as {
      filename: string;
      files: { path: string }[];
    }[];
    if (packed === undefined) throw new Error('Nothing was packed.');
    files = packed.files.map(({ path }) => path).sort();
    const file = join(installed, packed.filename);
    tarball = readFileSync(file);
    folder = join(installed, 'node_modules/@tidings', name);
    mkdirSync(folder, { recursive: true });
    await run('tar', ['-xzf', file, '--strip-components=1', '-C', folder]);
    const { dependencies = {} } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
      dependencies?: Record<string, string>;
    };
    for (const dependency of Object.keys(dependencies))
      symlinkSync(
        join(project, 'node_modules', dependency),
        join(installed, 'node_modules', dependency),
        'dir',
      );
  });

  test('has what is imported, its types, and what is read, and nothing else', () => {
    const imported = names.flatMap((entry) => [`${entry}.js`, `${entry}.d.ts`]);
    const told = ['LICENSE', 'README.md', 'package.json'];
    const wanted = [...told, ...[...imported, ...scripts].map((file) => `dist/${file}`)];
    expect(wanted.filter((file) => !files.includes(file))).toEqual([]);
    // Maps, and what entries have in common.
    const besides = /^dist\/[\w-]+\.(js|js\.map|d\.ts)$/;
    expect(files.filter((file) => !wanted.includes(file) && !besides.test(file))).toEqual([]);
  });

  test('is what its package.json says, by publint', async () => {
    const { messages } = await publint({ pack: { tarball: Uint8Array.from(tarball).buffer }, strict: true });
    expect(messages).toEqual([]);
  });

  test('has the types that TypeScript finds', async () => {
    const checked = await checkPackage(createPackageFromTarballData(tarball), {
      entrypoints: names.map((entry) => (entry === 'index' ? '.' : `./${entry}`)),
    });
    if (checked.types === false) throw new Error('There are no types.');
    // It is for ES modules only: `require` of them takes Node 22, and the oldest kind of resolution knows no `exports`.
    const problems = checked.problems.filter(
      (problem) =>
        !('resolutionKind' in problem && ['node10', 'node16-cjs'].includes(problem.resolutionKind)),
    );
    expect(problems).toEqual([]);
  });

  test.each(names)('%s is imported where there is no window', async (entry) => {
    const specifier = `@tidings/${name}${entry === 'index' ? '' : `/${entry}`}`;
    const program = `console.log(JSON.stringify(Object.keys(await import('${specifier}'))))`;
    const exported = JSON.parse(
      await run(process.execPath, ['--input-type=module', '-e', program], installed),
    ) as string[];
    expect(exported).toEqual(expect.arrayContaining([...(entries[entry] ?? [])]));
  });

  test.each(Object.entries(budgets))('%s has at most %d bytes, compressed', (file, most) => {
    expect(gzipSync(readFileSync(join(folder, 'dist', file)), { level: 9 }).length).toBeLessThanOrEqual(most);
  });
});
