import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { readClaims } from '../../src/auth/claims.ts';
import { loadOrCreateSecret } from '../../src/auth/secrets.ts';
import { environmentRules } from '../../src/auth/issuer.ts';
import { readConfig } from '../../src/core/config.ts';
import { startGuarded } from '../support/guarded-app.ts';
import { TEST_SECRET } from '../support/tokens.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidings-secret-'));
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

describe('the secret that the service makes for itself', () => {
  test('is the same for all who ask at once, is kept, and can be read by its owner only', async () => {
    const dataDir = join(folder, 'not', 'there');
    const secrets = await Promise.all(Array.from({ length: 20 }, () => loadOrCreateSecret(dataDir)));
    expect(new Set(secrets).size).toBe(1);
    expect(secrets[0]).toMatch(/^[A-Za-z0-9_-]{43,}$/);
    expect(await loadOrCreateSecret(dataDir)).toBe(secrets[0]);
    expect(await readdir(dataDir)).toEqual(['jwt-secret']);
    const { mode } = await stat(join(dataDir, 'jwt-secret'));
    expect(mode & 0o777).toBe(0o600);
  });

  test('differs from folder to folder', async () => {
    expect(await loadOrCreateSecret(join(folder, 'a'))).not.toBe(await loadOrCreateSecret(join(folder, 'b')));
  });

  test('is not used when the file holds less than a secret', async () => {
    await writeFile(join(folder, 'jwt-secret'), 'short\n');
    await expect(loadOrCreateSecret(folder)).rejects.toThrow(/jwt-secret holds less than 32 bytes/);
  });
});

describe('the command that prints a token', () => {
  const command = join(import.meta.dirname, '../../src/main.ts');
  const typescript = join(import.meta.dirname, '../jest/typescript.mjs');

  interface Outcome {
    code: number;
    stdout: string;
    stderr: string;
  }

  /** Runs it with nothing in its environment but what is given. */
  const run = (
    args: string[],
    settings: Record<string, string> = { JWT_SECRET: TEST_SECRET },
  ): Promise<Outcome> =>
    new Promise((resolve) => {
      const options = { cwd: folder, env: settings };
      const child = execFile(
        process.execPath,
        ['--import', typescript, command, 'token', ...args],
        options,
        (_, stdout, stderr) => {
          resolve({ code: child.exitCode ?? -1, stdout, stderr });
        },
      );
    });

  const payloadOf = (token: string): Record<string, number> =>
    JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());

  test('prints a token of a user and nothing else, and the service takes it', async () => {
    const { code, stdout, stderr } = await run([
      '--tenant',
      'acme',
      '--user',
      'Zoë',
      '--topics',
      'a,b',
      '--device',
      'd',
    ]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^[\w-]+\.[\w-]+\.[\w-]+\n$/);
    const service = await startGuarded();
    try {
      const headers = { authorization: `Bearer ${stdout.trim()}` };
      const response = await fetch(`${service.url}/stream`, { headers });
      expect(await response.json()).toEqual({
        tenant: 'acme',
        subject: 'Zoë',
        topics: ['a', 'b'],
        device: 'd',
      });
    } finally {
      await service.close();
    }
  });

  test('prints a token of a service, with its scopes', async () => {
    const { stdout } = await run([
      '--tenant',
      'acme',
      '--client',
      'billing',
      '--scope',
      'history:read notifications:publish',
    ]);
    const { principal } = readClaims(
      payloadOf(stdout),
      environmentRules(readConfig({})),
      { ...readConfig({}), topicsPerToken: () => 0 },
      Date.now(),
    );
    expect(principal).toMatchObject({ tenantId: 'acme', subject: 'billing' });
    expect(principal?.scopes).toEqual(new Set(['history:read', 'notifications:publish']));
  });

  test('prints a token of a service that publishes to some topics only', async () => {
    const { stdout } = await run([
      '--tenant',
      'acme',
      '--client',
      'billing',
      '--scope',
      'notifications:publish',
      '--topics',
      'news,sport',
    ]);
    expect(payloadOf(stdout)).toMatchObject({ sub: 'billing', topics: ['news', 'sport'] });
  });

  test('signs for an hour unless told otherwise, with the issuer and the audience of the settings', async () => {
    const settings = { JWT_SECRET: TEST_SECRET, JWT_ISSUER: 'us', JWT_AUDIENCE: 'them' };
    for (const [args, seconds] of [
      [[], 3_600],
      [['--expires-in', '90s'], 90],
      [['--expires-in', '30d'], 2_592_000],
    ] as const) {
      const { stdout } = await run(['--tenant', 'acme', '--user', 'alice', ...args], settings);
      const payload = payloadOf(stdout);
      expect(payload).toMatchObject({ iss: 'us', aud: 'them' });
      expect((payload['exp'] ?? 0) - (payload['iat'] ?? 0)).toBe(seconds);
    }
  });

  test('uses the secret under DATA_DIR when there is no other', async () => {
    const { stdout } = await run(['--tenant', 'acme', '--user', 'alice'], { DATA_DIR: 'data' });
    const secret = (await readFile(join(folder, 'data', 'jwt-secret'), 'utf8')).trim();
    const service = await startGuarded({ JWT_SECRET: secret });
    try {
      const response = await fetch(`${service.url}/stream`, {
        headers: { authorization: `Bearer ${stdout.trim()}` },
      });
      expect(response.status).toBe(200);
    } finally {
      await service.close();
    }
  });

  const user = ['--tenant', 'acme', '--user', 'alice'];
  test.each<[string, string[], Record<string, string> | undefined, RegExp]>([
    ['no tenant', ['--user', 'alice'], undefined, /--tenant is missing/],
    ['neither user nor client', ['--tenant', 'acme'], undefined, /--user .* or --client/],
    ['both user and client', [...user, '--client', 'billing'], undefined, /--user .* or --client/],
    [
      'a client without scope',
      ['--tenant', 'acme', '--client', 'billing'],
      undefined,
      /--client needs --scope/,
    ],
    ['a user with a scope', [...user, '--scope', 'history:read'], undefined, /--scope goes with --client/],
    ['a tenant outside the grammar', ['--tenant', 'a b', '--user', 'alice'], undefined, /`tenant_id`/],
    ['a time without unit', [...user, '--expires-in', '10'], undefined, /--expires-in/],
    ['no time at all', [...user, '--expires-in', '0s'], undefined, /--expires-in/],
    ['an unknown option', [...user, '--admin'], undefined, /--admin/],
    ['keys of an issuer', user, { JWKS_URL: 'https://id.example/keys' }, /issuer alone can sign/],
    ['a database and no key', user, { DATABASE_URL: 'postgres://db.example/x' }, /JWT_SECRET or JWKS_URL/],
    ['a short secret', user, { JWT_SECRET: 'short' }, /JWT_SECRET: has at least 32 bytes/],
  ])('explains itself on standard error when there is %s', async (_, args, settings, sentence) => {
    const { code, stdout, stderr } = await run(args, settings);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(sentence);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  test('tells how to use it', async () => {
    const { code, stdout } = await run(['--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('--expires-in');
  });
});
