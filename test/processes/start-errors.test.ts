import { createServer, type AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { ServiceProcess } from '../support/service-process.ts';

jest.setTimeout(240_000);

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

/** What a start that fails says. */
async function failure(settings: Record<string, string>): Promise<string> {
  const service = await ServiceProcess.launch(database, settings);
  expect(await service.ended).toEqual({ code: 1, signal: null });
  const said = `${service.stderr}${service.stdout}`;
  // Of no login: those of the database here, and those of the URLs below.
  for (const url of Object.values(database.urls)) expect(said).not.toContain(new URL(url).password);
  expect(said).not.toMatch(/hunter2/);
  return service.stderr;
}

test('a start that fails on what is in the database says that, and nothing of a port', async () => {
  await database.query('alter table revocations rename column kind to sort');
  const said = await failure({});
  expect(said).toMatch(/^tidings start failed: .*column "kind" does not exist/);
  expect(said).not.toMatch(/Port/);
  await database.query('alter table revocations rename column sort to kind');
});

test.each([true, false])(
  'a start on tables of a newer version names its migrations (with the login of the owner: %s)',
  async (isOwner) => {
    await database.query(
      `insert into migrations (timestamp, name) values (1700000009999, 'Newer1700000009999')`,
    );
    const said = await failure(isOwner ? { DATABASE_OWNER_URL: database.urls.owner } : {});
    expect(said).toMatch(
      /^The tables were migrated by a newer version of Tidings: they have Newer1700000009999, which this one \(.+\) does not know\. [^\n]+\n$/,
    );
    await database.query(`delete from migrations where name = 'Newer1700000009999'`);
  },
);

test('a port that is in use is named, that of the metrics as well', async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  const taken = String((other.address() as AddressInfo).port);
  expect(await failure({ PORT: taken })).toMatch(new RegExp(`^Port ${taken} is in use`));
  expect(await failure({ METRICS_PORT: taken })).toMatch(
    /^Metrics cannot be served there; correct METRICS_PORT/,
  );
  other.close();
});

test.each([
  ['postgres://u:hunter2@h1:5432:1,h2/db', /host that is none/],
  ['postgres://u:hunter2/@h1/db', /begins with postgres:/],
  ['postgres://u:hunter2@h/db?target_session_attrs=standby', /servers without writes/],
])('a URL that cannot be read is refused in one sentence without its password: %s', async (url, sentence) => {
  const said = await failure({ DATABASE_URL: url });
  expect(said).toMatch(
    /^Settings that cannot be used \(see \.env\.example\):\n {2}- DATABASE_URL: [^\n]+\n$/,
  );
  expect(said).toMatch(sentence);
});

test('a database that does not take the login is named without it', async () => {
  const { host } = new URL(database.url);
  const said = await failure({ DATABASE_URL: `postgres://tidings_service:hunter2@${host}/tidings` });
  expect(said).toMatch(
    /^The database at 127\.0\.0\.1:\d+\/tidings \(DATABASE_URL\) cannot be used: password authentication failed/,
  );
});

test.each(['DATABASE_URL', 'DATABASE_ENGINE_URL'])(
  'a wrong password in %s is told in one sentence, also by a start that migrates',
  async (setting) => {
    const { service, crossTenant, owner } = database.urls;
    const url = new URL(setting === 'DATABASE_URL' ? service : crossTenant);
    url.password = 'hunter2';
    const said = await failure({ DATABASE_OWNER_URL: owner, [setting]: url.href });
    expect(said).toMatch(
      new RegExp(
        String.raw`^The database at 127\.0\.0\.1:\d+/\w+ \(${setting}\) cannot be used: password authentication failed[^\n]*\n$`,
      ),
    );
  },
);
