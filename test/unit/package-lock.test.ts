import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';

interface Entry {
  readonly version: string;
  readonly integrity?: string;
  readonly resolved?: string;
  readonly link?: boolean;
  readonly inBundle?: boolean;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

const lock = JSON.parse(readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8')) as {
  packages: Record<string, Entry>;
};
const fetched = Object.entries(lock.packages).filter(
  // What is not in a node_modules is of this repository.
  ([path, { link, inBundle }]) => path.includes('node_modules/') && link !== true && inBundle !== true,
);

test('whatever is fetched by the lock is compared with a hash', () => {
  expect(fetched.length).toBeGreaterThan(100);
  const without = fetched.filter(([, { integrity }]) => integrity?.startsWith('sha512-') !== true);
  expect(without.map(([path]) => path)).toEqual([]);
});

test('the lock sends nobody to the registry of whoever wrote it', () => {
  const elsewhere = fetched.filter(
    ([, { resolved }]) => resolved?.startsWith('https://registry.npmjs.org/') === false,
  );
  expect(elsewhere.map(([path, { resolved }]) => `${path} ${resolved}`)).toEqual([]);
});

test('the lock names the packages of every platform, without which `npm ci` refuses it there', () => {
  const locked = new Set(fetched.map(([path]) => path.split('node_modules/').at(-1)));
  const asked = Object.values(lock.packages).flatMap(({ optionalDependencies = {} }) =>
    Object.keys(optionalDependencies),
  );
  expect(asked.filter((name) => !locked.has(name))).toEqual([]);
});
