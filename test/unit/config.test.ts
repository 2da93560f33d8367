import { describe, expect, test } from '@jest/globals';
import {
  ConfigError,
  readConfig,
  readSettings,
  removedSettings,
  settingsSchema,
} from '../../src/core/config.ts';
import { TUNING } from '../../src/core/tuning.ts';

const SECRET = 'x'.repeat(32);
const LOGINS = {
  DATABASE_URL: 'postgres://s:p@db/tidings',
  DATABASE_ENGINE_URL: 'postgresql://e:p@db/tidings',
};

function faultsOf(environment: Record<string, string>): string {
  try {
    readConfig(environment);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error('the settings were taken');
}

test('nothing has to be set', () => {
  expect(readConfig({})).toMatchObject({
    PORT: 3000,
    DATA_DIR: '.data',
    JWT_ISSUER: 'tidings',
    JWT_AUDIENCE: 'tidings',
    CORS_ORIGINS: [],
    HEARTBEAT_SECONDS: 15,
    MAX_DATA_BYTES: 64_000,
  });
});

test('what is read cannot be changed', () => {
  const config = readConfig({});
  expect(Object.isFrozen(config)).toBe(true);
});

test('an empty value counts as unset', () => {
  expect(readConfig({ PORT: '', DATABASE_URL: '', JWT_SECRET: '' })).toMatchObject({ PORT: 3000 });
});

test('what belongs to others in the environment is left alone', () => {
  expect(readConfig({ PATH: '/bin', HOME: '/home/x' })).not.toHaveProperty('PATH');
});

test('one message names every setting that is wrong', () => {
  const message = faultsOf({
    PORT: 'http',
    JWT_SECRET: 'short',
    DATABASE_URL: 'mysql://x',
    HEARTBEAT_SECONDS: '0',
    LOG_LEVEL: 'loud',
  });
  for (const name of ['PORT', 'JWT_SECRET', 'DATABASE_URL', 'HEARTBEAT_SECONDS', 'LOG_LEVEL'])
    expect(message).toContain(`- ${name}`);
});

test('a message repeats no secret', () => {
  expect(faultsOf({ JWT_SECRET: 'hunter2' })).not.toContain('hunter2');
});

describe('settings that do not go together', () => {
  test.each([
    [
      'two sources of keys',
      { JWT_SECRET: SECRET, JWKS_URL: 'https://id.example/keys' },
      'JWT_SECRET and JWKS_URL',
    ],
    ['a database without a key', LOGINS, 'JWT_SECRET or JWKS_URL'],
    [
      'a database by one login',
      { DATABASE_URL: LOGINS.DATABASE_URL, JWT_SECRET: SECRET },
      'DATABASE_ENGINE_URL',
    ],
    [
      'a login for the database of nobody',
      { DATABASE_OWNER_URL: 'postgres://o:p@db/tidings' },
      'DATABASE_OWNER_URL',
    ],
    ['keys over plain http from elsewhere', { JWKS_URL: 'http://id.example/keys' }, 'JWKS_URL'],
    [
      'keys over plain http from a name that only begins like loopback',
      { JWKS_URL: 'http://127.0.0.1.evil.example/keys' },
      'JWKS_URL',
    ],
  ])('%s', (_, environment, named) => {
    expect(faultsOf(environment)).toContain(named);
  });

  test.each([
    { ...LOGINS, JWT_SECRET: SECRET },
    { ...LOGINS, DATABASE_OWNER_URL: 'postgresql://o:p@db/tidings', JWKS_URL: 'https://id.example/keys' },
    { JWKS_URL: 'http://127.0.0.1:8080/keys' },
    { JWKS_URL: 'http://[::1]:8080/keys' },
    { JWKS_URL: 'http://localhost/keys' },
  ])('%j is fine', (environment) => {
    expect(() => readConfig(environment)).not.toThrow();
  });
});

test('NATS is reached by TLS with a login, or on loopback', () => {
  const read = (NATS_URL: string) => readConfig({ ...LOGINS, JWT_SECRET: SECRET, NATS_URL });
  expect(read('tls://u:p%40@a:4222, tls://u:p%40@b:4222').NATS_URL).toHaveLength(2);
  expect(() => read('nats://127.0.0.1:4222,nats://[::1]:4222')).not.toThrow();
  for (const url of [
    'nats://u:p@a:4222',
    'tls://a:4222',
    'http://127.0.0.1',
    'a:4222',
    'tls://u:p@a/subject',
  ])
    expect(() => read(url)).toThrow('NATS_URL');
  // What it would carry nobody else hears.
  expect(() => readConfig({ NATS_URL: 'nats://127.0.0.1:4222' })).toThrow('DATABASE_URL');
});

describe('what is no setting any more', () => {
  test('changes nothing when it is set, and stops no start', () => {
    expect(readConfig({ LOG_POLL_MS: '200', DATABASE_APPEND_CONNECTIONS: 'many' })).toEqual(readConfig({}));
  });

  test('is named, with what it was replaced by', () => {
    expect(removedSettings({ LOG_POLL_MS: '200', DATABASE_APPEND_CONNECTIONS: '8', PORT: '3000' })).toBe(
      'Settings that have no effect any more, to be removed: DATABASE_APPEND_CONNECTIONS (DATABASE_CONNECTIONS_PER_POOL now), LOG_POLL_MS (a constant now).',
    );
    expect(removedSettings({ LOG_POLL_MS: '', PORT: '3000', PATH: '/bin' })).toBeUndefined();
  });

  test('is none of those that there are', () => {
    for (const name of Object.keys(settingsSchema.shape))
      expect(removedSettings({ [name]: 'x' })).toBeUndefined();
  });
});

test('constants are the same everywhere, unless a test has others', () => {
  expect(readConfig({})).toMatchObject(TUNING);
  expect(readConfig({}, { LOG_POLL_MS: 200 })).toEqual({ ...readConfig({}), LOG_POLL_MS: 200 });
});

describe('a secret is counted in bytes', () => {
  test('31 are too few, 32 are enough, whatever the script', () => {
    expect(faultsOf({ JWT_SECRET: 'x'.repeat(31) })).toContain('JWT_SECRET');
    expect(readConfig({ JWT_SECRET: 'é'.repeat(16) }).JWT_SECRET).toHaveLength(16);
  });
});

test('lists are split at commas', () => {
  expect(readConfig({ CORS_ORIGINS: 'https://a.example, https://b.example,' }).CORS_ORIGINS).toEqual([
    'https://a.example',
    'https://b.example',
  ]);
});

describe('what needs some settings only', () => {
  const keys = settingsSchema.pick({ DATABASE_URL: true, JWT_SECRET: true, JWKS_URL: true });
  const logins = settingsSchema.pick({ DATABASE_URL: true, DATABASE_ENGINE_URL: true });

  test('is given these, and is not stopped by others', () => {
    const environment = { ...LOGINS, PORT: 'http', JWT_SECRET: 'short' };
    expect(readSettings(environment, logins)).toEqual(LOGINS);
  });

  test('is told which of them do not go together, and of no other', () => {
    expect(() => readSettings({ DATABASE_URL: LOGINS.DATABASE_URL }, logins)).toThrow('DATABASE_ENGINE_URL');
    expect(() => readSettings({ DATABASE_URL: LOGINS.DATABASE_URL, JWT_SECRET: SECRET }, keys)).not.toThrow();
    expect(() => readSettings({ DATABASE_URL: LOGINS.DATABASE_URL }, keys)).toThrow('JWT_SECRET or JWKS_URL');
    expect(() => readSettings(LOGINS, logins)).not.toThrow();
  });
});
