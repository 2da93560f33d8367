import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { ensureDatabase } from '../../../src/postgres/embedded-server.ts';
import { migrate } from '../../../src/postgres/migrate.ts';
import { loginOf, urlsOf } from '../../../src/postgres/roles.ts';
import { call, operatorOf, readerOf } from '../../support/admin.ts';
import { get, post, publish, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { settingsOf, type TestDatabase } from '../../support/database.ts';
import { describeWithDebianPostgres } from '../../support/debian-postgres.ts';
import { createScratchServer, type ScratchServer } from '../../support/scratch-server.ts';
import { build } from '../../support/service-process.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

/* A database is backed up and restored by the commands of docs/how-to/backup-and-restore.md, as they stand there. */

jest.setTimeout(300_000);

const PROJECT = resolve(import.meta.dirname, '../../..');
const PAGE = readFileSync(join(PROJECT, 'docs/how-to/backup-and-restore.md'), 'utf8');

interface Commands {
  readonly language: string;
  readonly text: string;
}

/** What stands in fences below a heading of the page, in order. */
function commandsBelow(heading: string): Commands[] {
  const section = PAGE.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) ?? '';
  const found = [...section.matchAll(/^```(\w+)\n(.*?)^```$/gms)];
  if (found.length === 0) throw new Error(`The page has no commands below "${heading}".`);
  return found.map(([, language = '', text = '']) => ({ language, text }));
}

describeWithDebianPostgres('the pages of back-up and restore', (programs) => {
  const DUMPER = { name: 'tidings_backup', password: randomBytes(8).toString('hex') };
  let folder: string;
  let before: ScratchServer;
  let after: ScratchServer;
  let service: Service | undefined;

  beforeAll(async () => {
    await build();
    folder = await mkdtemp(join(tmpdir(), 'tidings-backup-'));
    await chmod(folder, 0o700);
    [before, after] = await Promise.all([
      createScratchServer({}, undefined, programs),
      createScratchServer({}, undefined, programs),
    ]);
    const admin = new pg.Client({ connectionString: before.url('postgres') });
    await admin.connect();
    await ensureDatabase(admin, before.url('postgres'), 'tidings');
    await admin.end();
    await migrate(urlsOf(before.url('postgres'), 'tidings'));
  });
  afterAll(async () => {
    await service?.close();
    await before.remove();
    await after.remove();
    await rm(folder, { recursive: true, force: true });
  });

  /** The database as an operator has it: the server and its passwords are in the environment. */
  async function run(server: ScratchServer, { language, text }: Commands, more = {}): Promise<string> {
    const url = new URL(server.url('postgres'));
    const urls = urlsOf(url.href, 'tidings');
    const passwords = [loginOf(url.href), DUMPER, ...Object.values(urls).map(loginOf)];
    const passwordFile = join(folder, 'pgpass');
    await writeFile(
      passwordFile,
      passwords.map(({ name, password }) => `*:*:*:${name}:${password}\n`).join(''),
      { mode: 0o600 },
    );
    const env = {
      PATH: `${programs}/bin:${process.env['PATH'] ?? ''}`,
      HOME: folder,
      PGHOST: url.hostname,
      PGPORT: url.port,
      PGUSER: url.username,
      PGDATABASE: 'postgres',
      PGPASSFILE: passwordFile,
      ...settingsOf({ url: url.href, urls }),
      DATABASE_OWNER_URL: urls.owner,
      ...more,
    };
    // What the page leaves to the reader.
    const filled = text.replaceAll(
      /create role (\w+) (.*)password '…'/g,
      (_, name: string, options: string) =>
        `create role ${name} ${options}password '${passwords.find((login) => login.name === name)?.password ?? ''}'`,
    );
    const isService = filled.includes('npm run ');
    const [program, args]: [string, string[]] =
      language === 'sql'
        ? ['psql', ['--set=ON_ERROR_STOP=1', '--no-psqlrc', `--command=${filled}`]]
        : ['/bin/sh', ['-e', '-c', filled]];
    const options = {
      cwd: isService ? PROJECT : folder,
      env,
    };
    const { stdout, stderr } = await promisify(execFile)(program, args, options);
    return `${stdout}${stderr}`;
  }

  async function runAll(server: ScratchServer, commands: readonly Commands[]): Promise<void> {
    for (const each of commands)
      for (const text of each.language === 'sql' ? each.text.trim().split('\n') : [each.text])
        await run(server, { ...each, text });
  }

  /** The database `tidings` of a server, as tests have one. */
  function databaseOf(server: ScratchServer): TestDatabase {
    const url = server.url('tidings');
    return {
      url,
      urls: urlsOf(server.url('postgres'), 'tidings'),
      query: async <Row extends pg.QueryResultRow>(sql: string, values: readonly unknown[] = []) => {
        const client = new pg.Client({ connectionString: url });
        await client.connect();
        try {
          return (await client.query<Row>(sql, [...values])).rows;
        } finally {
          await client.end();
        }
      },
      drop: async () => undefined,
    };
  }

  /** Number and digest of the rows of every table. */
  async function contents(server: ScratchServer): Promise<Record<string, unknown>> {
    const database = databaseOf(server);
    const tables = await database.query<{ name: string }>(
      `select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
       order by relname`,
    );
    const found: Record<string, unknown> = {};
    for (const { name } of tables)
      [found[name]] = await database.query(
        `select count(*)::int as rows, md5(coalesce(string_agg(t::text, chr(10) order by t::text), '')) as digest from ${name} t`,
      );
    return found;
  }

  const alice = (tenant: string, device: string) =>
    userToken({ tenant, device, topics: ['news'], claims: { jti: `${tenant}-${device}` } });
  const keyed = async (url: string, tenant: string, key: string) =>
    await post<StoredAnswer>(
      `${url}/v1/notifications`,
      serviceToken({ tenant }),
      { to: { user: 'alice' }, type: 't', data: key },
      { 'idempotency-key': key },
    );
  const TENANTS = ['acme', 'globex'];

  test('a backup is complete, a service on it has the tenants, devices and history of before, and streams go on', async () => {
    service = await startService({ RECEIPTS_FLUSH_MS: 20 }, { database: databaseOf(before) });
    const seen = new Map<string, string>();
    for (const tenant of TENANTS) {
      const { url } = service;
      const stream = await StreamClient.open(url, alice(tenant, 'phone'), { query: { ack: 'auto' } });
      await stream.untilEvent('caught-up');
      await publish(url, serviceToken({ tenant }), { to: { topic: 'news' }, type: 't', data: 'a topic' });
      await publish(url, serviceToken({ tenant }), { to: { everyone: true }, type: 't', data: 'everyone' });
      expect((await keyed(url, tenant, 'kept')).status).toBe(201);
      await stream.untilNotifications(3);
      await stream.cut();
      seen.set(tenant, stream.lastEventId ?? '');
      await publish(url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: 'missed' });
      await call('POST', `${url}/v1/revocations`, operatorOf(tenant), { token: { jti: `${tenant}-stolen` } });
    }
    const historyOf = async ({ url }: Service, tenant: string) => {
      const { status, body } = await get(`${url}/v1/notifications?user=alice`, readerOf(tenant));
      expect(status).toBe(200);
      return body;
    };
    // Receipts are written a moment later, and a stopped node writes no more of anything.
    await service.close();
    const backedUp = await contents(before);
    await runAll(before, commandsBelow('Back up with pg_dump'));

    service = await startService({ RECEIPTS_FLUSH_MS: 20 }, { database: databaseOf(before) });
    const histories = new Map<string, unknown>();
    for (const tenant of TENANTS) histories.set(tenant, await historyOf(service, tenant));
    // The time between the backup and the failure.
    const late = await StreamClient.open(service.url, alice('acme', 'tablet'), { query: { from: 'latest' } });
    await late.untilEvent('caught-up');
    expect((await keyed(service.url, 'acme', 'lost')).status).toBe(201);
    await late.untilNotifications(1);
    await late.cut();
    await service.close();
    service = undefined;
    await before.kill();

    const [logins, database, restore, ours] = commandsBelow('Restore a pg_dump');
    if (logins === undefined || database === undefined || restore === undefined || ours === undefined)
      throw new Error('The page restores in four steps.');
    await runAll(after, [logins, database, restore]);
    const restored = await contents(after);
    expect(restored).toEqual(backedUp);
    expect(await run(after, ours)).toMatch(/Nothing to migrate/);
    const [rows] = commandsBelow('Try it before you need it');
    if (rows === undefined) throw new Error('The page looks for rows.');
    expect(await run(after, rows, { PGDATABASE: 'tidings' })).toMatch(
      new RegExp(`^ +${TENANTS.length}$`, 'm'),
    );

    service = await startService({ RECEIPTS_FLUSH_MS: 20 }, { database: databaseOf(after) });
    const { url } = service;
    for (const tenant of TENANTS) {
      expect(await historyOf(service, tenant)).toEqual(histories.get(tenant));
      const back = await StreamClient.open(url, alice(tenant, 'phone'), {
        lastEventId: seen.get(tenant) ?? '',
      });
      await back.untilEvent('caught-up');
      expect(back.named('sync')).toMatchObject([{ resume: 'exact' }]);
      expect(back.notifications.map(({ data }) => data)).toEqual(['missed']);
      await back.cut();
      const stolen = userToken({ tenant, claims: { jti: `${tenant}-stolen` } });
      expect((await get(`${url}/v1/stream`, stolen)).status).toBe(401);
    }

    // A device that has seen what is lost: nothing that comes now takes the place of it.
    const ahead = await StreamClient.open(url, alice('acme', 'tablet'), {
      lastEventId: late.lastEventId ?? '',
    });
    await ahead.untilEvent('caught-up');
    expect(['exact', 'reset']).toContain(ahead.named('sync')[0]?.['resume']);
    const again = await keyed(url, 'acme', 'kept');
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect((await keyed(url, 'acme', 'lost')).status).toBe(201);
    await ahead.until(() => ahead.notifications.at(-1)?.data === 'lost', 'what was lost, sent again');
    expect(Number(ahead.lastEventId)).toBeGreaterThan(Number(late.lastEventId));
    await ahead.cut();
  });

  test('a dump by the owner fails, and one that is helped along has the rows of no tenant', async () => {
    const dump = (options: string) =>
      run(after, {
        language: 'sh',
        text: `pg_dump --username=tidings_owner --dbname=tidings --format=custom ${options}`,
      });
    await expect(dump('--file=by-owner.dump')).rejects.toThrow(/row-level security/);
    await dump('--file=without-rows.dump --enable-row-security');
    await run(after, { language: 'sql', text: `create database copy template template0` });
    await run(after, { language: 'sh', text: 'pg_restore --dbname=copy --exit-on-error without-rows.dump' });
    const count = { language: 'sql', text: 'select count(*) from tenants' };
    expect(await run(after, count, { PGDATABASE: 'copy' })).toMatch(/^ +0$/m);
  });
});
