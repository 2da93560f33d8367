import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { post } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { userToken } from '../support/tokens.ts';
import { expectBye, TwoNodes } from '../support/two-nodes.ts';

/* How many devices a user may have, on two nodes. */

let nodes: TwoNodes;
beforeAll(async () => {
  nodes = await TwoNodes.start();
});
afterEach(async () => {
  await nodes.cutAll();
});
afterAll(async () => {
  await nodes.close();
});

const devicesOf = async (tenant: string): Promise<string[]> =>
  (
    await nodes.here.database.query<{ device_id: string }>(
      'select device_id from devices where tenant_id = $1 order by 1',
      [tenant],
    )
  ).map((row) => row.device_id);

test('a device too many gets no stream and no cursor, on whichever node; those that are known come back', async () => {
  const tenant = `t-${randomUUID()}`;
  await nodes.limit(tenant, { devicesPerUser: 2 });
  const token = userToken({ tenant });
  const [here, there] = nodes.both;
  const known = [
    await nodes.open(here, token, { device: 'phone' }),
    await nodes.open(there, token, { device: 'tablet' }),
  ];
  for (const service of nodes.both) {
    const watch = await nodes.ask(service, token, { device: 'watch' });
    expect(watch.status).toBe(200);
    // It will not be let in within seconds.
    expect(await expectBye(watch, 'over-limit')).toBeGreaterThanOrEqual(30_000);
    expect(watch.named('sync')).toEqual([]);
    const claimed = await nodes.ask(service, userToken({ tenant, device: 'glasses' }));
    await expectBye(claimed, 'over-limit');
  }
  expect(await devicesOf(tenant)).toEqual(['phone', 'tablet']);
  const metrics = await (await fetch(`${here.url}/metrics`)).text();
  expect(metrics).toContain('tidings_over_limit_total{limit="devicesPerUser"} 2\n');
  const ack = await post(`${here.url}/v1/acks`, token, { upTo: '0', device: 'watch' });
  expect(ack).toMatchObject({ status: 404, body: { code: 'device_unknown' } });
  await nodes.expectAlive(tenant, [...known, await nodes.open(there, token, { device: 'phone' })]);
  await nodes.expectAlive(tenant, [await nodes.open(here, userToken({ tenant, user: 'bob' }))]);
});

test('a limit that is raised lets it in, one that is lowered takes nothing from those that are known', async () => {
  const tenant = `t-${randomUUID()}`;
  await nodes.limit(tenant, { devicesPerUser: 1 });
  const token = userToken({ tenant });
  const [here, there] = nodes.both;
  const phone = await nodes.open(here, token, { device: 'phone' });
  await expectBye(await nodes.ask(there, token, { device: 'tablet' }), 'over-limit');
  await nodes.limit(tenant, { devicesPerUser: 2 });
  const tablet = await nodes.open(there, token, { device: 'tablet' });
  await nodes.limit(tenant, { devicesPerUser: 1 });
  await nodes.expectAlive(tenant, [phone, tablet, await nodes.open(here, token, { device: 'tablet' })]);
});

test('devices that come at once through two nodes are exactly as many as there may be', async () => {
  const tenant = `t-${randomUUID()}`;
  await nodes.limit(tenant, { devicesPerUser: 5 });
  const token = userToken({ tenant });
  const streams = await Promise.all(
    Array.from({ length: 30 }, (_, n) =>
      nodes.ask(n % 2 === 0 ? nodes.here : nodes.there, token, { device: `d-${n}` }),
    ),
  );
  const letIn = () => streams.filter((stream) => stream.named('sync').length > 0);
  await eventually(() => expect(streams.filter(({ ended }) => ended).length).toBe(25));
  expect(letIn().length).toBe(5);
  expect(await devicesOf(tenant)).toHaveLength(5);
  for (const stream of streams.filter(({ ended }) => ended)) await expectBye(stream, 'over-limit');
  await nodes.expectAlive(tenant, letIn());
});
