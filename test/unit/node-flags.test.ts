import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from '@jest/globals';

const PROJECT = resolve(import.meta.dirname, '../..');
const read = (name: string) => readFileSync(join(PROJECT, name), 'utf8');

test('the program `tidings` runs on Node as `npm start` runs it, and so does a container', () => {
  const flags = JSON.parse(read('scripts/node-flags.json')) as string[];
  expect(read('src/main.ts').split('\n')[0]).toBe(`#!/usr/bin/env -S node ${flags.join(' ')}`);
  const dockerfile = read('Dockerfile');
  expect(/^ENTRYPOINT (\[.*\])$/m.exec(dockerfile)?.[1]).toBe('["tidings"]');
  expect(/^CMD (\[.*\])$/m.exec(dockerfile)?.[1]).toBe('["start"]');
  const { bin } = JSON.parse(read('package.json')) as { bin: Record<string, string> };
  expect(dockerfile).toContain(`ln -s /app/${bin['tidings']} /usr/local/bin/tidings`);
});
