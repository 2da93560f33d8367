import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { HELP, issuer } from '../../src/cli/issuer.ts';
import { adminOf, call, KeyIssuer, readerOf, type Page } from '../support/admin.ts';
import { startService, type Service } from '../support/app.ts';
import { settingsOf } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { sign } from '../support/tokens.ts';

const SECRET = 'correct horse battery staple, and some more of it';
const SECRETS_KEY = 'the key of the tests, longer than thirty-two bytes';

let service: Service;
let folder: string;
let count = 0;
let iss: string;
beforeAll(async () => {
  service = await startService({ ISSUER_SECRETS_KEY: SECRETS_KEY });
});
afterAll(() => service.close());
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidings-issuer-'));
  iss = `https://id-${(count += 1)}.example`;
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

/** Runs the command beside the service; what it prints, or the message that it ends with. */
async function run(args: string[], { input = '', key = SECRETS_KEY }: { input?: string; key?: string } = {}) {
  let printed = '';
  const environment = {
    ...settingsOf(service.database),
    ISSUER_SECRETS_KEY: key,
  };
  const terminal = {
    input: Readable.from([Buffer.from(input)]),
    print: (text: string) => void (printed += text),
    report: () => undefined,
  };
  try {
    await issuer(args, environment, terminal);
    return { printed, refused: undefined };
  } catch (error) {
    return { printed, refused: error instanceof Error ? error.message : String(error) };
  }
}

const jwks = ['--jwks-url', 'https://id.example/keys'];
const rest = ['--audience', 'tidings', '--tenant', 'acme'];
const registered = async (): Promise<Record<string, unknown>[]> =>
  JSON.parse((await run(['list', '--json'])).printed) as Record<string, unknown>[];
/** A node looks every CHANGES_POLL_MS, and now. */
const look = () => service.app.get(ChangeFeed).now();
const statusOf = async (token: string) => (await call('GET', `${service.url}/v1/audit`, token)).status;
const tokenOf = (secret: string, claims: Record<string, unknown>) => {
  const now = Math.floor(Date.now() / 1000);
  const payload = {
    iss,
    aud: 'tidings',
    iat: now,
    exp: now + 3_600,
    sub: 'reader',
    scope: 'history:read',
    ...claims,
  };
  return sign(payload, { alg: 'HS256', typ: 'JWT' }, secret);
};
const auditOf = async (tenant: string) =>
  (
    await call<Page<{ action: string; target: string; before: unknown; after: unknown }>>(
      'GET',
      `${service.url}/v1/audit`,
      readerOf(tenant),
    )
  ).body.items;

describe('the command that registers issuers', () => {
  test('registers the first one, which a running node trusts with its next look', async () => {
    const idp = new KeyIssuer(iss);
    const file = join(folder, 'keys.json');
    await writeFile(file, JSON.stringify(idp.jwks));
    const token = idp.token({ sub: 'console', scope: 'tenants:admin' });
    const { printed, refused } = await run([
      ...['add', '--iss', iss, '--keys', file, '--algorithms', 'ES256', '--audience', 'tidings'],
      ...['--tenant', 'ops', '--scopes', 'tenants:admin'],
    ]);
    expect([printed, refused]).toEqual([
      expect.stringMatching(/^Registered https:\/\/id-\d+\.example as [0-9a-f-]{36}\./),
      undefined,
    ]);
    await look();
    expect((await call('GET', `${service.url}/v1/tenants`, token)).status).toBe(200);
  });

  test('takes everything that the API takes', async () => {
    await run([
      ...['add', '--iss', iss, ...jwks, '--audience', 'a', '--audience', 'b', '--tenants', 'acme, globex'],
      ...[
        '--scopes',
        'history:read,operations:write',
        '--algorithms',
        'ES256,EdDSA',
        '--require-at-jwt',
        '--name',
        'An issuer',
      ],
      ...['--claim', 'tenant=/org/id', '--claim', 'scopes=/realm_access/roles', '--claim', 'scopes=scope'],
    ]);
    expect((await registered()).find((each) => each['iss'] === iss)).toMatchObject({
      name: 'An issuer',
      status: 'active',
      jwksUrl: 'https://id.example/keys',
      audiences: ['a', 'b'],
      tenant: null,
      tenants: ['acme', 'globex'],
      scopes: ['history:read', 'operations:write'],
      algorithms: ['ES256', 'EdDSA'],
      requireAtJwt: true,
      claims: { tenant: '/org/id', user: 'sub', scopes: ['/realm_access/roles', 'scope'] },
    });
  });

  test('disables, enables and removes by iss, and tells a running node', async () => {
    await run(['add', '--iss', iss, '--secret', '-', ...rest], { input: `${SECRET}\n` });
    const token = tokenOf(SECRET, {});
    const becomes = async (status: number) => {
      await look();
      expect(await statusOf(token)).toBe(status);
    };
    await becomes(200);
    expect((await run(['disable', iss])).printed).toMatch(/^Disabled /);
    await becomes(401);
    expect((await run(['list'])).printed).toContain(`${iss} (disabled)`);
    expect((await run(['enable', iss])).printed).toMatch(/^Enabled /);
    await becomes(200);
    expect((await run(['remove', iss])).printed).toMatch(/^Removed /);
    await becomes(401);
    expect((await run(['list'])).printed).not.toContain(iss);
  });

  test('records what it did for each tenant concerned, none of which sees another', async () => {
    await run(['add', '--iss', iss, ...jwks, '--audience', 'a', '--tenants', 'north,south']);
    await run(['disable', iss]);
    await run(['disable', iss]);
    await run(['remove', iss]);
    for (const [tenant, other] of [
      ['north', 'south'],
      ['south', 'north'],
    ] as const) {
      const acts = await auditOf(tenant);
      expect(acts).toMatchObject([
        {
          action: 'issuer.delete',
          actor: { kind: 'command' },
          before: { iss, status: 'disabled' },
          after: null,
        },
        {
          action: 'issuer.update',
          before: { status: 'active', tenants: [tenant] },
          after: { status: 'disabled' },
        },
        { action: 'issuer.create', remoteAddress: null, before: null, after: { iss, tenants: [tenant] } },
      ]);
      expect(JSON.stringify(acts)).not.toContain(other);
    }
  });

  test('reads a secret from a file or standard input, and shows it to nobody', async () => {
    const file = join(folder, 'secret');
    await writeFile(file, `${SECRET}\r\n`);
    const added = await run(['add', '--iss', iss, '--secret', file, ...rest]);
    expect(added.refused).toBeUndefined();
    await eventually(async () => expect(await statusOf(tokenOf(SECRET, {}))).toBe(200));
    const everything = [added, await run(['list']), await run(['list', '--json']), await auditOf('acme')];
    expect(JSON.stringify(everything)).not.toContain('correct horse');

    const given = await run(['add', '--iss', iss, '--secret', SECRET, ...rest]);
    expect(given.refused).toMatch(
      /--secret takes the name of a file that can be read, or - for standard input/,
    );
    const short = await run(['add', '--iss', iss, '--secret', '-', ...rest], { input: 'short horse' });
    expect(short.refused).toMatch(/--secret: has at least 32 bytes/);
    const bare = await run(['add', '--iss', `${iss}/2`, '--secret', file, ...rest], { key: '' });
    expect(bare.refused).toMatch(/--secret: .*ISSUER_SECRETS_KEY/);
    for (const { refused } of [given, short, bare]) expect(refused).not.toMatch(/correct|horse/);
  });

  test.each<[string, string[], RegExp]>([
    ['no options', ['add'], /--iss: is required\n {2}- --audience: is required/],
    ['two sources of keys', ['add', '--iss', 'x', ...jwks, '--secret', '-', ...rest], /exactly one of/],
    [
      'one tenant and several',
      ['add', '--iss', 'x', ...jwks, ...rest, '--tenants', 'a'],
      /exactly one of tenant and tenants/,
    ],
    [
      'a bad tenant',
      ['add', '--iss', 'x', ...jwks, '--audience', 'a', '--tenant', 'a/b'],
      /--tenant: .*1 to 64/,
    ],
    ['a bad URL', ['add', '--iss', 'x', '--jwks-url', 'http://x.example', ...rest], /--jwks-url: is https/],
    [
      'a claim without a place',
      ['add', '--iss', 'x', ...jwks, ...rest, '--claim', 'tenant'],
      /--claim takes/,
    ],
    [
      'a claim that is none',
      ['add', '--iss', 'x', ...jwks, ...rest, '--claim', 'colour=c'],
      /--claim: does not take colour/,
    ],
    [
      'a claim twice',
      ['add', '--iss', 'x', ...jwks, ...rest, '--claim', 'user=a', '--claim', 'user=b'],
      /given twice/,
    ],
    [
      'keys that are no JSON',
      ['add', '--iss', 'x', '--keys', import.meta.filename, ...rest],
      /--keys takes a file that holds/,
    ],
    ['an option of another command', ['disable', 'x', '--json'], /--json does not go with this command/],
    [
      'an issuer that is none',
      ['disable', 'https://nobody.example'],
      /No issuer with this iss is registered. .*issuer list/,
    ],
    ['the issuer of the settings', ['remove', 'tidings'], /changed in the environment/],
    ['the issuer of the settings, anew', ['add', '--iss', 'tidings', ...jwks, ...rest], /JWT_ISSUER/],
    ['no issuer', ['remove'], /Give the iss of one issuer/],
    ['no such command', ['delete', 'x'], /There is no command delete/],
  ])('says what to do when it is given %s', async (_, args, message) => {
    const before = await registered();
    const { printed, refused } = await run(args);
    expect([printed, refused]).toEqual(['', expect.stringMatching(message)]);
    expect(await registered()).toEqual(before);
  });

  test('does not register an iss twice', async () => {
    await run(['add', '--iss', iss, ...jwks, ...rest]);
    expect((await run(['add', '--iss', iss, ...jwks, ...rest])).refused).toMatch(
      /Another issuer with this iss/,
    );
  });

  test.each([[[]], [['--help']], [['add', '-h']]])('explains itself: %j', async (args: string[]) => {
    expect(await run(args)).toEqual({ printed: HELP, refused: undefined });
  });

  test('is found by an administrator of the API, too, under the same id', async () => {
    await run(['add', '--iss', iss, ...jwks, ...rest]);
    const record = (await registered()).find((each) => each['iss'] === iss);
    const { body } = await call('GET', `${service.url}/v1/issuers/${String(record?.['id'])}`, adminOf('ops'));
    expect(body).toEqual(record);
  });
});
