import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { startService, type Service } from '../support/app.ts';
import { get } from '../support/api.ts';

const read = (name: string) => readFileSync(new URL(`../../${name}`, import.meta.url), 'utf8');
const { version, license } = JSON.parse(read('package.json')) as { version: string; license: string };

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

test('the service says the version of package.json, wherever it says one', async () => {
  const { body: reference } = await get<{ info: { version: string } }>(`${service.url}/openapi.json`, '');
  expect(reference.info.version).toBe(version);
  const { body: readiness } = await get<{ version: string }>(`${service.url}/health/ready`, '');
  expect(readiness.version).toBe(version);
  const metrics = await (await fetch(`${service.url}/metrics`)).text();
  expect(metrics).toContain(`tidings_build_info{version="${version}"} 1\n`);
});

test('the lock and the changelog know of the same version', () => {
  const lock = JSON.parse(read('package-lock.json')) as {
    version: string;
    packages: Record<string, { version: string; license: string }>;
  };
  expect([lock.version, lock.packages['']?.version]).toEqual([version, version]);
  // What is released stands below what is not.
  const [newest = version] = [...read('CHANGELOG.md').matchAll(/^## \[(\d[^\]]*)\]/gm)].map(([, at]) => at);
  expect(newest).toBe(version);
});

test('the license is the one that the file holds', () => {
  const text = read('LICENSE');
  expect(text).toMatch(/^MIT License\n\nCopyright \(c\) 2026 the Tidings authors\n/);
  expect(license).toBe('MIT');
});
