import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { get } from '../support/api.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { ServiceProcess, startServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

jest.setTimeout(120_000);

const operator = serviceToken({ client: 'desk', scope: 'history:read' });
const WAITED = /its name is free once it has been silent/;

let database: TestDatabase;
const started: ServiceProcess[] = [];
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  for (const service of started) await service.end();
  await database.drop();
});

async function start(name: string): Promise<ServiceProcess> {
  const service = await startServiceProcess(database, { NODE_NAME: name });
  started.push(service);
  return service;
}

const openStreams = async ({ url }: ServiceProcess) =>
  (await get<{ items: { node: string; until: string | null }[] }>(`${url}/v1/connections`, operator)).body
    .items;

test('a second node of a name that is alive does not start, says why, and takes nothing from the first', async () => {
  const first = await start('twin');
  const stream = await StreamClient.open(first.url, userToken());
  await stream.untilEvent('caught-up');
  await eventually(async () =>
    expect(await openStreams(first)).toMatchObject([{ node: 'twin', until: null }]),
  );
  const rows = () =>
    database.query(
      `select started_at, instance, (select sum(connections) from connection_counts where node = 'twin') as streams
       from nodes where node = 'twin'`,
    );
  await eventually(async () => expect(await rows()).toMatchObject([{ streams: 1 }]));
  const before = await rows();

  const second = await ServiceProcess.launch(database, { NODE_NAME: 'twin' });
  started.push(second);
  expect(await second.ended).toMatchObject({ code: 1 });
  expect(second.stderr).toMatch(/alive under the name twin: give every node a NODE_NAME of its own/);
  expect(await rows()).toEqual(before);
  expect(await openStreams(first)).toMatchObject([{ node: 'twin', until: null }]);
  await stream.cut();
});

test('one that was stopped leaves its name at once, and one that was killed when it has been silent', async () => {
  const first = await start('again');
  first.kill('SIGTERM');
  expect(await first.ended).toMatchObject({ code: 0 });
  const second = await start('again');
  expect(second.stdout).not.toMatch(WAITED);
  await second.end();
  const third = await start('again');
  expect(third.stdout).toMatch(WAITED);
});
