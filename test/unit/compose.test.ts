import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { settingsSchema } from '../../src/core/config.ts';

const compose = readFileSync(new URL('../../docker-compose.yml', import.meta.url), 'utf8')
  .split('\n')
  .filter((line) => !/^\s*#/.test(line))
  .join('\n');
/** What stands below `tidings:`, up to the next service. */
const [, service = ''] = /^ {2}tidings:\n(.*?)^ {2}\w+:\n/ms.exec(compose) ?? [];
const [, environment = ''] = /^ {4}environment:\n((?: {6}.*\n)*)/m.exec(service) ?? [];
const passed = new Map(
  [...environment.matchAll(/^ {6}(\w+): (.*)$/gm)].map(([, name, value]) => [name, value]),
);

test('no password of docker compose has a default, and who has set none is told where to', () => {
  const asked = [...compose.matchAll(/\$\{(\w*PASSWORD)(:[-?])?([^}]*)\}/g)];
  const required = new Set(asked.filter(([, , kind]) => kind === ':?').map(([, name]) => name));
  expect(required).toEqual(
    new Set(['SERVICE_PASSWORD', 'ENGINE_PASSWORD', 'OWNER_PASSWORD', 'POSTGRES_PASSWORD']),
  );
  for (const [, name, kind, sentence] of asked) {
    expect(required).toContain(name);
    if (kind !== undefined) expect([kind, sentence]).toEqual([':?', expect.stringContaining('.env')]);
  }
});

test('docker compose publishes the port of the API and no metrics', () => {
  expect([...compose.matchAll(/^ {4}ports:\n((?: {6}.*\n)*)/gm)].map(([, ports]) => ports?.trim())).toEqual([
    "- '${PORT:-3000}:3000'",
  ]);
  expect(passed.get('METRICS_PORT')).toMatch(/^\d+$/);
  expect(passed.get('METRICS_PORT')).not.toBe('3000');
  expect(passed.has('PORT')).toBe(false);
});

/** Where the service listens within its container and has its database: said by docker-compose.yml itself. */
const OWN = ['DATABASE_URL', 'DATABASE_ENGINE_URL', 'DATABASE_OWNER_URL', 'METRICS_PORT', 'METRICS_HOST'];
/** Left at their defaults there. */
const LEFT = ['PORT', 'HOST', 'DATA_DIR'];

test('docker compose passes every other setting on as .env has it, and requires none of them', () => {
  const others = Object.keys(settingsSchema.shape).filter((name) => ![...OWN, ...LEFT].includes(name));
  expect([...passed].filter(([name]) => !OWN.includes(name ?? ''))).toEqual(
    others.map((name) => [name, `\${${name}:-}`]),
  );
  expect([...passed.keys()]).toEqual(expect.arrayContaining(OWN));
});
