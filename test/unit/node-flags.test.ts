import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from '@jest/globals';

const PROJECT = resolve(import.meta.dirname, '../..');
const read = (name: string) => readFileSync(join(PROJECT, name), 'utf8');

test('a container starts the service as `npm start` does', () => {
  const flags = JSON.parse(read('scripts/node-flags.json')) as string[];
  const command = /^CMD (\[.*\])$/m.exec(read('Dockerfile'))?.[1] ?? '[]';
  expect(JSON.parse(command)).toEqual(['node', ...flags, 'dist/src/main.js']);
});
