import { createServer, type AddressInfo, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Draining, readConfig } from '../../src/core/config.ts';
import { HealthStore, liveSchema, Readiness, readySchema } from '../../src/health/health.controller.ts';
import { loneBus } from '../support/pools.ts';
import { startService, type Service } from '../support/app.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { TEST_SECRET } from '../support/tokens.ts';

const ready = async ({ url }: Service) => {
  const response = await fetch(`${url}/health/ready`);
  return { status: response.status, body: readySchema.parse(await response.json()) };
};

describe('a service with its database', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({ NODE_NAME: 'node-7' });
  });
  afterAll(() => service.close());

  test('is live and ready without a token, and says which node it is', async () => {
    const live = await fetch(`${service.url}/health/live`);
    expect(live.status).toBe(200);
    expect(liveSchema.parse(await live.json())).toEqual({ status: 'live' });
    expect(live.headers.get('cache-control')).toBe('no-store');

    const { status, body } = await ready(service);
    expect(status).toBe(200);
    expect(body).toEqual({
      status: 'ready',
      node: 'node-7',
      version: expect.any(String),
      database: { reachable: true, milliseconds: expect.any(Number) },
      bus: 'alone',
    });
  });

  test('asks its database once for a crowd of questions', async () => {
    const began = performance.now();
    const answers = await Promise.all(Array.from({ length: 20 }, () => ready(service)));
    const seconds = (performance.now() - began) / 1_000;
    const times = new Set(answers.map(({ body }) => body.database.milliseconds));
    // What the database said serves for a second: if this took longer, it was asked again; and once for the test before.
    expect(times.size).toBeLessThanOrEqual(1 + Math.ceil(seconds));
  });

  test('is not ready while a migration is missing, and ready again once it ran', async () => {
    const rows = await service.database.query<{ timestamp: number; name: string }>(
      'delete from migrations returning timestamp, name',
    );
    await eventually(async () => {
      expect(await ready(service)).toMatchObject({ status: 503, body: { status: 'not-migrated' } });
    });
    for (const { timestamp, name } of rows) {
      await service.database.query('insert into migrations (timestamp, name) values ($1, $2)', [
        timestamp,
        name,
      ]);
    }
    await eventually(async () => expect(await ready(service)).toMatchObject({ status: 200 }));
  });

  test('is live and not ready while it drains', async () => {
    service.app.get(Draining).begin();
    expect(await ready(service)).toMatchObject({ status: 503, body: { status: 'draining' } });
    expect((await fetch(`${service.url}/health/live`)).status).toBe(200);
  });
});

describe('a service whose database went away', () => {
  let database: TestDatabase;
  let service: Service;
  beforeAll(async () => {
    database = await createDatabase();
    service = await startService({}, { database });
  });
  afterAll(() => service.close());

  test('stays ready, so that no balancer turns streams away, and reports it', async () => {
    await database.drop();
    await eventually(async () => {
      expect(await ready(service)).toMatchObject({
        status: 200,
        body: { status: 'ready', database: { reachable: false, error: '3D000' } },
      });
    });
    expect((await fetch(`${service.url}/health/live`)).status).toBe(200);
  });
});

test('a database that takes the connection and says nothing is reported, sooner than a request would give it up', async () => {
  const sockets = new Set<Socket>();
  const silent = createServer((socket) => sockets.add(socket)).listen(0, '127.0.0.1');
  await new Promise((resolve) => silent.once('listening', resolve));
  const { port } = silent.address() as AddressInfo;
  const config = readConfig({
    DATABASE_URL: `postgres://service@127.0.0.1:${port}/none`,
    DATABASE_ENGINE_URL: `postgres://engine@127.0.0.1:${port}/none`,
    JWT_SECRET: TEST_SECRET,
    // If these were waited for, the test would end by its own time limit.
    DATABASE_CONNECT_TIMEOUT_MS: '120000',
    DATABASE_STATEMENT_TIMEOUT_MS: '600000',
  });
  const store = new HealthStore(config);
  const report = await new Readiness(new Draining(), store, loneBus(), config).report();
  expect(report).toMatchObject({ status: 'ready', database: { reachable: false } });
  for (const socket of sockets) socket.destroy();
  silent.close();
  await store.onApplicationShutdown();
}, 100_000);
