import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { announcement } from '../../src/app/run.ts';
import { readConfig } from '../../src/core/config.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startServiceProcess } from '../support/service-process.ts';
import { TEST_SECRET } from '../support/tokens.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

/** What nobody is to read in a terminal or a log. */
const secretsOf = (urls: readonly string[]) => urls.map((url) => new URL(url).password);

test('a start with settings says where the service is, on what it works, and what is left out', async () => {
  const service = await startServiceProcess(database, { LOG_LEVEL: 'info' });
  try {
    const { host, pathname } = new URL(database.urls.service);
    await eventually(() => expect(service.stderr).toContain('Not set'));
    expect(service.stderr).toContain(`listens on ${service.url}.`);
    expect(service.stderr).toContain(`${service.url}/docs\n`);
    expect(service.stderr).toContain(`${host}${pathname}\n`);
    expect(service.stderr).toMatch(/signed by JWT_SECRET, with iss tidings and aud tidings/);
    expect(service.stderr).toMatch(/Not set +CORS_ORIGINS: /);
    // It is reached from this machine alone.
    expect(service.stderr).not.toContain('METRICS_PORT');
    for (const secret of [TEST_SECRET, ...secretsOf(Object.values(settingsOf(database)))])
      expect(service.stderr).not.toContain(secret);
  } finally {
    await service.end();
  }
});

test('a start names a setting that has no effect any more, and goes on', async () => {
  const service = await startServiceProcess(database, { LEDGER_FLUSH_MS: 'many' });
  try {
    expect(service.stderr).toBe(
      'Settings that have no effect any more, to be removed: LEDGER_FLUSH_MS (a constant now).\n',
    );
  } finally {
    await service.end();
  }
});

test('constants in other values than their own, as tests have them, name nothing', async () => {
  const service = await startServiceProcess(database, { RECEIPTS_FLUSH_MS: 20 });
  try {
    expect(service.stderr).toBe('');
  } finally {
    await service.end();
  }
});

const LOGINS = {
  DATABASE_URL: 'postgres://s:secret@db:5433/notes?sslmode=require',
  DATABASE_ENGINE_URL: 'postgres://e:secret@db:5433/notes',
};
const said = (environment: Record<string, string>, origin = 'http://[::]:3000') =>
  announcement(readConfig(environment), origin);

test('an address that stands for all is given as one that can be pasted', () => {
  for (const host of ['[::]', '0.0.0.0'])
    expect(said({ JWT_SECRET: TEST_SECRET }, `http://${host}:3000`)).toMatch(
      /^Tidings \S+ listens on http:\/\/127\.0\.0\.1:3000, and on every other address of this machine\.\n.* http:\/\/127\.0\.0\.1:3000\/docs\n/,
    );
});

test('what is not set is said only where it is missed', () => {
  const bare = said({ ...LOGINS, JWKS_URL: 'https://id.example/keys?key=hidden' });
  expect(bare).toMatch(/Database +db:5433\/notes\n/);
  expect(bare).toMatch(/the keys at id\.example\/keys, /);
  expect([...bare.matchAll(/Not set +(\w+)/g)].map(([, name]) => name)).toEqual([
    'JWT_ISSUER',
    'CORS_ORIGINS',
    'METRICS_PORT',
  ]);
  const whole = said({
    ...LOGINS,
    DATABASE_OWNER_URL: 'postgres://o:secret@db:5433/notes',
    JWKS_URL: 'https://id.example/keys',
    JWT_ISSUER: 'https://id.example/',
    CORS_ORIGINS: 'https://app.example',
    METRICS_PORT: '9464',
  });
  expect(whole).not.toContain('Not set');
  expect(whole).toMatch(/each start brings its tables up to date/);
  for (const text of [bare, whole]) expect(text).not.toMatch(/secret@|hidden/);
});
