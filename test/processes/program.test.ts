import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { migrations } from '../../migrations/migrations.ts';
import { urlsOf } from '../../src/postgres/roles.ts';
import { settingsOf, testServer, type DatabasePlace } from '../support/database.ts';
import { build } from '../support/service-process.ts';
import { TEST_SECRET } from '../support/tokens.ts';

const PROJECT = resolve(import.meta.dirname, '../..');
/** As the image is laid out: the program, what it depends on, and nothing to build it with. */
const IMAGE = ['dist', 'package.json'];

let folder: string;
let database: DatabasePlace;
let owner: string;

/** The server of this run by its superuser; `url`: one of its databases. */
async function administer(sql: string, url = testServer()): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

const name = `empty_${randomBytes(8).toString('hex')}`;
beforeAll(async () => {
  await build();
  folder = await mkdtemp(join(tmpdir(), 'tidings-program-'));
  await mkdir(join(folder, 'app'));
  await mkdir(join(folder, 'bin'));
  await mkdir(join(folder, 'work'));
  for (const part of IMAGE) await cp(join(PROJECT, part), join(folder, 'app', part), { recursive: true });
  await symlink(join(PROJECT, 'node_modules'), join(folder, 'app/node_modules'));
  await symlink(join(folder, 'app/dist/src/main.js'), join(folder, 'bin/tidings'));
  await administer(`create database ${name} template template0 owner tidings_owner`);
  const url = new URL(testServer());
  url.pathname = `/${name}`;
  const urls = urlsOf(testServer(), name);
  database = { url: url.href, urls };
  owner = urls.owner;
});
afterAll(async () => {
  await administer(`drop database ${name} with (force)`);
  await rm(folder, { recursive: true });
});

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs it by the link that the image has, with nothing in its environment but what is given. */
const tidings = (
  args: readonly string[],
  settings: Readonly<Record<string, string>> = {},
): Promise<Outcome> =>
  new Promise((settle) => {
    const PATH = [dirname(process.execPath), '/usr/bin', '/bin'].join(delimiter);
    const options = { cwd: join(folder, 'work'), env: { PATH, ...settings } };
    const child = execFile(join(folder, 'bin/tidings'), [...args], options, (_, stdout, stderr) => {
      settle({ code: child.exitCode ?? -1, stdout, stderr });
    });
  });

/** Settings that no start would take, and that no command but `start` has a use for. */
const FOREIGN = { PORT: 'http', HEARTBEAT_SECONDS: '0', MAX_REQUEST_BYTES: 'many', LOG_LEVEL: 'loud' };

describe('the program in the image', () => {
  test('tells which commands there are, and which version it is', async () => {
    const { code, stdout } = await tidings(['--help']);
    expect(code).toBe(0);
    for (const command of ['start', 'migrate', 'token', 'issuer', 'log-advance', 'scale-citus']) {
      expect(stdout).toMatch(new RegExp(`^  ${command} +[a-z]`, 'm'));
      const told = await tidings([command, '--help'], FOREIGN);
      expect(told).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(`tidings ${command}`),
        stderr: '',
      });
    }
    expect(await tidings(['--version'])).toEqual({
      code: 0,
      stdout: expect.stringMatching(/^\d+\.\d+\.\d+\S*\n$/),
      stderr: '',
    });
  });

  test.each([
    [
      ['migrations'],
      /no command migrations; there are start, migrate, token, issuer, log-advance, scale-citus\./,
    ],
    [['migrate', '--jsn'], /--jsn[^]*tidings migrate --help/],
    [['start', 'now'], /now[^]*tidings start --help/],
    [['log-advance', '--ahead', 'far'], /--ahead takes whole seconds/],
  ])('says what is wrong with %j, and nothing of its insides', async (args, sentence) => {
    const { code, stdout, stderr } = await tidings(args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(sentence);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  test('prepares a database without a key for tokens, and each command with no settings but its own', async () => {
    const settings = { ...FOREIGN, ...settingsOf(database), DATABASE_OWNER_URL: owner };
    // As an administrator does, who is told to otherwise.
    await administer(
      'revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea), lo_import(text), lo_import(text, oid) from public',
      database.url,
    );
    const first = await tidings(['migrate', '--json'], settings);
    expect(first).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(first.stdout)).toEqual({ migrations: migrations.map(({ name: ran }) => ran) });
    expect(await tidings(['migrate'], settings)).toMatchObject({ code: 0, stdout: 'Nothing to migrate.\n' });

    const used = { ...FOREIGN, ...settingsOf(database) };
    const added = await tidings(
      [
        ...['issuer', 'add', '--iss', 'https://id.example', '--jwks-url', 'https://id.example/keys'],
        ...['--audience', 'tidings', '--tenant', 'acme'],
      ],
      used,
    );
    expect(added).toMatchObject({ code: 0, stdout: expect.stringMatching(/^Registered/), stderr: '' });
    const listed = await tidings(['issuer', 'list', '--json'], used);
    expect(JSON.parse(listed.stdout)).toMatchObject([{ iss: 'https://id.example' }]);
    const advanced = await tidings(['log-advance', '--json'], used);
    expect(JSON.parse(advanced.stdout)).toMatchObject({ lifted: 0 });
    const token = await tidings(['token', '--tenant', 'acme', '--user', 'alice'], {
      ...FOREIGN,
      JWT_SECRET: TEST_SECRET,
    });
    expect(token).toMatchObject({ code: 0, stdout: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+\n$/) });
  });

  test('reads .env where it is called, and what the environment says goes before it', async () => {
    const file = join(folder, 'work/.env');
    const issuerOf = ({ stdout }: Outcome) => {
      const payload = JSON.parse(Buffer.from(stdout.split('.')[1] ?? '', 'base64url').toString()) as {
        iss: string;
      };
      return payload.iss;
    };
    const ask = ['token', '--tenant', 'acme', '--user', 'alice'];
    await writeFile(file, `# of this folder\nJWT_SECRET=${TEST_SECRET}\nJWT_ISSUER="from the file"\n`);
    try {
      expect(issuerOf(await tidings(ask))).toBe('from the file');
      expect(issuerOf(await tidings(ask, { JWT_ISSUER: 'from the environment' }))).toBe(
        'from the environment',
      );
      // As compose writes what is not set.
      expect(issuerOf(await tidings(ask, { JWT_ISSUER: '' }))).toBe('tidings');
    } finally {
      await rm(file);
    }
    await mkdir(file);
    expect(await tidings(ask)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/\.env is no file that/),
    });
    await rm(file, { recursive: true });
  });
});
