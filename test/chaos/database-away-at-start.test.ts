import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { urlsOf } from '../../src/postgres/roles.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { createDatabase, type DatabasePlace, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { ownPort } from '../support/own-port.ts';
import { startPostgres, type PostgresServer } from '../support/postgres-server.ts';
import { ServiceProcess } from '../support/service-process.ts';

/** Processes are started and waited for, one after the other. */
jest.setTimeout(300_000);

let database: TestDatabase;
let postgres: PostgresServer;
let nowhere: DatabasePlace;
/** Waits for a database that never comes, beside the other tests. */
let hopeless: ServiceProcess;
const launched: ServiceProcess[] = [];

async function launch(
  place: DatabasePlace,
  settings: Readonly<Record<string, string>> = {},
): Promise<ServiceProcess> {
  const service = await ServiceProcess.launch(place, settings);
  launched.push(service);
  return service;
}

const untilItWaits = (service: ServiceProcess) =>
  eventually(() => expect(service.stderr).toMatch(/does not answer yet/));

beforeAll(async () => {
  // A name that has two addresses on most machines.
  const url = `postgres://tidings:the-password@localhost:${await ownPort()}/tidings`;
  nowhere = { url, urls: urlsOf(url, 'tidings') };
  hopeless = await launch(nowhere);
  database = await createDatabase();
  postgres = await startPostgres();
});
afterAll(async () => {
  for (const service of launched) await service.end();
  await postgres.remove();
  await database.drop();
});

test('a service whose database comes later says once that it waits, and then starts', async () => {
  await postgres.stop();
  const service = await launch(postgres);
  await untilItWaits(service);
  await postgres.start();
  await service.ready();
  expect(service.stderr).toMatch(
    /^The database at 127\.0\.0\.1:\d+\/tidings \(DATABASE_URL\) does not answer yet; trying for 30 seconds\.\n$/,
  );
});

test('a network that swallows the question is waited for like a server that is down', async () => {
  const proxy = await BreakingProxy.start(database);
  proxy.stall();
  const service = await launch(proxy);
  await untilItWaits(service);
  proxy.flow();
  await service.ready();
  await service.end();
  await proxy.close();
});

test('a pooler that comes later than the database is waited for, also by a start that migrates', async () => {
  const proxy = await BreakingProxy.start(database);
  proxy.stall();
  const { service, owner } = database.urls;
  const late = proxy.urls.crossTenant;
  const settings = { DATABASE_URL: service, DATABASE_OWNER_URL: owner, DATABASE_ENGINE_URL: late };
  const waiting = await launch(database, settings);
  await untilItWaits(waiting);
  expect(waiting.stderr).toMatch(/\(DATABASE_ENGINE_URL\) does not answer yet/);
  proxy.flow();
  await waiting.ready();
  await waiting.end();
  await proxy.close();
});

test('a service that is told to stop while it waits stops at once', async () => {
  const service = await launch(nowhere);
  await untilItWaits(service);
  service.kill('SIGTERM');
  expect(await service.ended).toEqual({ code: 0, signal: null });
  // Had it waited to the end, it would have ended as one whose database does not come.
  expect(service.stderr).not.toMatch(/cannot be used/);
});

test('a database that waiting does not bring is not waited for', async () => {
  const { url } = database;
  const service = await launch({ url, urls: urlsOf(url, 'no_such_database') });
  expect(await service.ended).toEqual({ code: 1, signal: null });
  expect(service.stderr).toMatch(
    /^The database at 127\.0\.0\.1:\d+\/no_such_database \(DATABASE_URL\) cannot be used: database "no_such_database" does not exist\n$/,
  );
});

test('a service whose database does not come ends with a sentence, and without its password', async () => {
  expect(await hopeless.ended).toEqual({ code: 1, signal: null });
  expect(hopeless.stderr).toMatch(
    /^The database at localhost:\d+\/tidings \(DATABASE_URL\) does not answer yet.*\nThe database at localhost:\d+\/tidings \(DATABASE_URL\) cannot be used: .*ECONNREFUSED.*\n$/,
  );
  expect(hopeless.stdout).toBe('');
});
