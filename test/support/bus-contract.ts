import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { Bus } from '../../src/cluster/bus.ts';
import { NodeName } from '../../src/cluster/nodes.ts';
import { ReadStore } from '../../src/log/read.store.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { setTenant } from './acts.ts';
import { publish } from './api.ts';
import type { Service } from './app.ts';
import { CuttingProxy } from './cutting-proxy.ts';
import { createDatabase, type TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import type { TestSettings } from './settings.ts';
import type { StreamClient } from './stream-client.ts';
import { serviceToken, userToken } from './tokens.ts';
import { TwoNodes } from './two-nodes.ts';

/** What passes the messages of a bus on. */
export interface BusServer {
  /** Where it is reached. */
  readonly url: string;
  /** What has nodes use it through this place. */
  settings(place: string): TestSettings;
  /** Says something on the bus as another node could. */
  say(payload: string): Promise<void>;
  close(): Promise<void>;
}

/** So long that whatever comes before it came by the bus. */
const NEVER_MS = 3_600_000;

/** The tests that every transport of the bus passes. What it loses, doubles or delays costs time and nothing else. */
export function describeBus(
  /** Shortest pause between two messages of a node, in ms. */
  pauseMs: number,
  start: (database: TestDatabase) => Promise<BusServer>,
): void {
  let database: TestDatabase;
  let server: BusServer;
  let proxy: CuttingProxy;
  let nodes: TwoNodes;
  beforeAll(async () => {
    database = await createDatabase();
    server = await start(database);
    proxy = await CuttingProxy.start(server.url);
    nodes = await TwoNodes.start(
      { LOG_POLL_MS: NEVER_MS, CHANGES_POLL_MS: NEVER_MS, ...server.settings(new URL(proxy.url).host) },
      database,
    );
    for (const { app } of nodes.both) {
      // They give no signs of life between these polls, and a busy machine is longer at these tests than nodes may be silent.
      app.get(NodeName).others = () => Promise.resolve(true);
      app.get(Bus).others(true);
    }
    await untilBoth('connected');
  });
  afterEach(async () => {
    jest.restoreAllMocks();
    await nodes.cutAll();
  });
  afterAll(async () => {
    await nodes.close();
    await proxy.close();
    await server.close();
    await database.drop();
  });

  /** As health has it. */
  async function untilBoth(bus: 'connected' | 'degraded'): Promise<void> {
    for (const { url } of nodes.both)
      await eventually(async () =>
        expect(await (await fetch(`${url}/health/ready`)).json()).toMatchObject({ status: 'ready', bus }),
      );
  }

  const send = (tenant: string, data: unknown) =>
    publish(nodes.here.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data });

  async function sendMany(tenant: string, count: number): Promise<{ id: string; position: string }[]> {
    const stored = [];
    for (let n = 0; n < count; n += 1) stored.push(await send(tenant, n));
    return stored;
  }

  const open = (tenant: string) => nodes.open(nodes.there, userToken({ tenant }));

  async function expectAll(stream: StreamClient, stored: readonly { id: string }[]): Promise<void> {
    const got = await stream.untilNotifications(stored.length);
    expect(got.map(({ id }) => id)).toEqual(stored.map(({ id }) => id));
  }

  async function messages(direction: string, { app }: Pick<Service, 'app'>): Promise<number> {
    const { values } = await app.get(Metrics).busMessages.get();
    return values.find(({ labels }) => labels.direction === direction)?.value ?? 0;
  }

  test('what one node stores is heard by the other, and how long that took is measured there', async () => {
    const metric = nodes.there.app.get(Metrics).commitToSocketSeconds;
    const sum = async () =>
      (await metric.get()).values.find(({ metricName }) => metricName?.endsWith('_sum'))?.value ?? 0;
    const before = await sum();
    const stream = await open('heard');
    await expectAll(stream, await sendMany('heard', 50));
    // By two clocks that this is: of a commit on this node it would be microseconds.
    expect(await sum()).toBeGreaterThan(before + 50 * 0.000_5);
  });

  test('what changes on one node counts on the other', async () => {
    const tenant = 'changed';
    const stream = await open(tenant);
    await setTenant(nodes.here, tenant, { status: 'suspended' });
    await stream.untilEvent('bye');
    expect(stream.named('bye')).toMatchObject([{ reason: 'revoked' }]);
  });

  test('a node says as little as it may, and the other reads once for what it hears', async () => {
    const stream = await open('much');
    const reads = jest.spyOn(nodes.there.app.get(ReadStore), 'allAfter');
    const [sent, received] = [await messages('sent', nodes.here), await messages('received', nodes.there)];
    const began = performance.now();
    await Promise.all(Array.from({ length: 16 }, () => sendMany('much', 50)));
    await stream.untilNotifications(16 * 50);
    const seconds = (performance.now() - began) / 1_000;
    expect((await messages('sent', nodes.here)) - sent).toBeLessThanOrEqual(1 + (seconds * 1_000) / pauseMs);
    expect(reads.mock.calls.length).toBeLessThanOrEqual((await messages('received', nodes.there)) - received);

    // Nothing of a tenant that has no streams there.
    reads.mockClear();
    await sendMany('unwanted', 3);
    await expectAll(await open('wanted'), await sendMany('wanted', 0));
    const wanted = await open('wanted');
    await expectAll(wanted, await sendMany('wanted', 1));
    expect(reads.mock.calls.map(([tenant]) => tenant)).not.toContain('unwanted');
  });

  test('what was said before the other heard again is read when it does', async () => {
    const stream = await open('late');
    // It does not know that it is cut off, so that it does not poll meanwhile.
    jest.spyOn(nodes.there.app.get(Bus), 'state', 'get').mockReturnValue('connected');
    proxy.cut('reset');
    await expectAll(stream, await sendMany('late', 5));
    jest.restoreAllMocks();
    await untilBoth('connected');
  });

  test('while it is gone, health and metrics say so, and nodes poll several times a second', async () => {
    proxy.away = true;
    proxy.cut('reset');
    await untilBoth('degraded');
    const { values } = await nodes.there.app.get(Metrics).busConnected.get();
    expect(values.map(({ value }) => value)).toEqual([0]);
    const stream = await open('polled');
    const polled = await sendMany('polled', 5);
    await expectAll(stream, polled);

    proxy.away = false;
    await untilBoth('connected');
    await expectAll(stream, [...polled, ...(await sendMany('polled', 5))]);
  });

  describe('a message costs time and nothing else', () => {
    test.each<[string, (tenant: string, position: number) => unknown[]]>([
      ['that is doubled', (tenant, at) => Array(5).fill([tenant, at])],
      [
        'that is late',
        (tenant, at) => [
          [tenant, at],
          [tenant, at - 1],
          [tenant, 1],
        ],
      ],
      ['of a position that the log does not have', (tenant, at) => [[tenant, at + 4096 * 3_600_000]]],
      ['of a tenant that nobody knows', () => [['nobody', 1]]],
    ])('%s', async (what, heads) => {
      const tenant = `costs-${what.replaceAll(' ', '-')}`;
      const stream = await open(tenant);
      const before = await sendMany(tenant, 3);
      const received = await messages('received', nodes.there);
      for (const head of heads(tenant, Number(before.at(-1)?.position)))
        await server.say(JSON.stringify({ from: randomUUID(), heads: [head] }));
      await eventually(async () => expect(await messages('received', nodes.there)).toBeGreaterThan(received));
      await expectAll(stream, [...before, ...(await sendMany(tenant, 3))]);
    });

    test.each([
      '',
      '{',
      '{"from":1}',
      '{"from":"x","heads":[["a",1]]}',
      JSON.stringify({ from: randomUUID(), heads: [['t', -1]] }),
      JSON.stringify({ from: randomUUID(), heads: [], more: 1 }),
    ])('that no node would say (%j)', async (payload) => {
      const refused = await messages('refused', nodes.there);
      await server.say(payload);
      await eventually(async () => expect(await messages('refused', nodes.there)).toBe(refused + 1));
      const tenant = `no-node-${randomUUID()}`;
      const stream = await open(tenant);
      await expectAll(stream, await sendMany(tenant, 1));
    });
  });
}
