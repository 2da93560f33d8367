import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { CENTRIFUGO, locate, MERCURE, reach } from '../bench/peers.ts';
import { TEST_SECRET } from '../support/tokens.ts';

const KEY = { MERCURE_PUBLISHER_JWT_KEY: 'a key' };
const URL_GIVEN = { ...KEY, MERCURE_URL: 'http://hub.test:3000/.well-known/mercure' };

describe('a peer of the benchmark', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidings-peers-'));
    writeFileSync(join(folder, 'mercure'), '', { mode: 0o755 });
    writeFileSync(join(folder, 'centrifugo'), '', { mode: 0o644 });
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const path = () => ({ PATH: ['/nowhere', folder].join(delimiter) });

  test('is found on the PATH', () => {
    expect(locate(MERCURE, path())).toEqual({ path: join(folder, 'mercure') });
  });

  test('is missing where nothing of its name can be run, and what it takes is said', () => {
    expect(locate(CENTRIFUGO, path())).toEqual({
      missing:
        'put centrifugo (https://centrifugal.dev) on the PATH, or give one that runs by CENTRIFUGO_URL, CENTRIFUGO_HTTP_API_KEY, CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY',
    });
    expect(locate(MERCURE, {})).toEqual({ missing: expect.stringMatching(/^put mercure /) });
  });

  test('that is given by URL goes before the one on the PATH', () => {
    expect(locate(MERCURE, { ...path(), ...URL_GIVEN })).toEqual({ url: new URL(URL_GIVEN.MERCURE_URL) });
  });

  test('is not taken by a URL that is none, or of another protocol', () => {
    for (const given of ['', 'hub.test', 'hub.test:3000', 'https://hub.test'])
      expect(locate(MERCURE, { ...path(), ...KEY, MERCURE_URL: given })).toEqual({
        wrong: `MERCURE_URL is where mercure runs, such as http://127.0.0.1:3000, not ${given}`,
      });
  });

  test('is not taken by URL without the secrets of its clients', () => {
    const given = { CENTRIFUGO_URL: 'http://127.0.0.1:8000', CENTRIFUGO_HTTP_API_KEY: 'a key' };
    expect(locate(CENTRIFUGO, given)).toEqual({
      wrong: 'CENTRIFUGO_URL needs CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY beside it',
    });
  });

  test('is reached by the host and the secrets that were given, or here by that of the tests', () => {
    const there = reach(MERCURE, URL_GIVEN);
    expect([there.host, there.site]).toEqual(['hub.test', 'hub.test:3000']);
    expect(there.secret('MERCURE_PUBLISHER_JWT_KEY')).toBe('a key');
    const here = reach(MERCURE, KEY);
    expect([here.host, here.site]).toEqual(['127.0.0.1', 'localhost']);
    expect(here.secret('MERCURE_PUBLISHER_JWT_KEY')).toBe(TEST_SECRET);
  });
});
