import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { get } from '../support/api.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { ServiceProcess, startServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/** Processes start one after the other, and names are waited for. */
jest.setTimeout(300_000);

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

test('a node that lost its name, and has it again, opens its streams anew', async () => {
  const node = await start('lost');
  const stream = await StreamClient.open(node.url, userToken({ user: 'bob' }));
  await stream.untilEvent('caught-up');
  const ofBob = async () =>
    (await openStreams(node)).filter((one) => one.node === 'lost' && one.until === null);
  await eventually(async () => expect(await ofBob()).toHaveLength(1));
  // Another process took it, and died.
  await database.query(
    `update nodes set instance = gen_random_uuid(), started_at = now(), seen_at = now() - interval '11 seconds'
     where node = 'lost'`,
  );
  await stream.closed;
  expect(stream.named('bye')).toMatchObject([{ reason: 'unavailable', reconnect: true }]);
  const next = await StreamClient.open(node.url, userToken({ user: 'bob' }));
  await next.untilEvent('caught-up');
  await eventually(async () => expect(await ofBob()).toHaveLength(1));
  await next.cut();
});

test('one that was stopped leaves its name at once, and one that was killed when it has been silent', async () => {
  const first = await start('again');
  first.kill('SIGTERM');
  expect(await first.ended).toMatchObject({ code: 0 });
  const second = await start('again');
  expect(second.stdout).not.toMatch(WAITED);
  await second.end();
  // As after the database's clock was set back: that it is silent can be seen from its rest alone.
  await database.query(`update nodes set seen_at = now() + interval '1 hour' where node = 'again'`);
  const stopped = await ServiceProcess.launch(database, { NODE_NAME: 'again' });
  started.push(stopped);
  await eventually(() => expect(stopped.stdout).toMatch(WAITED));
  stopped.kill('SIGTERM');
  expect(await stopped.ended).toMatchObject({ code: 0 });
  const third = await start('again');
  expect(third.stdout).toMatch(WAITED);
});
