import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { MetricsListener } from '../../src/telemetry/metrics-endpoint.ts';
import { BYES } from '../../src/delivery/frames.ts';
import { call, KeyIssuer } from '../support/admin.ts';
import { startService, type Service } from '../support/app.ts';
import { get, post, publish } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { RawConnection } from '../support/wire.ts';

describe('GET /metrics', () => {
  let service: Service;
  let other: Service;
  beforeAll(async () => {
    service = await startService();
    other = await startService({}, { database: service.database });
  });
  afterAll(async () => {
    await other.close();
    await service.close();
  });

  const read = async ({ url }: Service) => (await fetch(`${url}/metrics`)).text();
  const valueOf = (text: string, sample: string) =>
    Number(
      text
        .split('\n')
        .find((line) => line.startsWith(`${sample} `))
        ?.slice(sample.length + 1),
    );

  test('answers in the text format of Prometheus, each metric with its meaning', async () => {
    const response = await fetch(`${service.url}/metrics`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    const text = await response.text();
    const typed = [...text.matchAll(/^# TYPE (tidings_\w+) (?:counter|gauge|histogram)$/gm)].map(
      ([, name]) => name,
    );
    expect(typed.length).toBeGreaterThan(25);
    for (const name of typed) expect(text).toMatch(new RegExp(`^# HELP ${name} [A-Z].{10,}\\.$`, 'm'));
    expect(text).toContain('nodejs_eventloop_lag_seconds');
    // To list every handle takes as long as there are streams.
    expect(text).not.toContain('nodejs_active_');
    expect(valueOf(text, 'process_open_fds')).toBeGreaterThan(10);
  });

  test('has every series of a counter before anything is counted, so that its first event is an increase', async () => {
    const text = await read(service);
    const counters = [...text.matchAll(/^# TYPE (tidings_\w+) counter$/gm)].map(([, name]) => name);
    expect(counters.length).toBeGreaterThan(10);
    for (const name of counters) expect(text).toMatch(new RegExp(`^${name}(?:\\{.*\\})? \\d+$`, 'm'));
    const valuesOf = (name: string) =>
      [...text.matchAll(new RegExp(`^tidings_${name}_total\\{\\w+="([^"]*)"\\} `, 'gm'))].map(
        ([, value]) => value,
      );
    expect(new Set(valuesOf('streams_ended'))).toEqual(new Set(['client', 'stalled', ...Object.keys(BYES)]));
    expect(valuesOf('streams_opened')).toEqual([
      'exact',
      'undelivered',
      'latest',
      'earliest',
      'gap',
      'reset',
    ]);
    expect(valuesOf('over_limit')).toEqual(['node', 'connections', 'devicesPerUser']);
    expect(valuesOf('publish_requests')).toEqual(['stored', 'replayed', 'limited', 'refused', 'unavailable']);
    expect(valuesOf('deliveries')).toEqual(['live', 'replayed']);
    expect(valuesOf('maintenance_failures')).toHaveLength(6);
  });

  test('counts what this node published, and not what another did', async () => {
    const before = valueOf(await read(service), 'tidings_published_total');
    const elsewhere = valueOf(await read(other), 'tidings_published_total');
    const token = serviceToken();
    await publish(service.url, token, { to: { users: ['u-1', 'u-2'] }, type: 'a', data: 1 });
    await publish(service.url, token, { to: { everyone: true }, type: 'a', data: 1 });
    expect(valueOf(await read(service), 'tidings_published_total')).toBe(before + 3);
    expect(valueOf(await read(other), 'tidings_published_total')).toBe(elsewhere);
    expect(valueOf(await read(service), 'tidings_publish_requests_total{result="stored"}')).toBe(2);
  });

  test('names routes by their pattern, and no tenant, user or path of a caller', async () => {
    const token = serviceToken({ tenant: 'seen-tenant', client: 'seen-client' });
    await publish(service.url, token, { to: { user: 'seen-user' }, type: 'seen-type', data: 'seen-data' });
    await fetch(`${service.url}/seen-path?seen=query`);
    await fetch(`${service.url}/docs/assets/seen-name`);
    const text = await read(service);
    expect(
      valueOf(text, 'tidings_http_request_seconds_count{method="GET",route="unmatched",status="404"}'),
    ).toBe(1);
    expect(text).toContain('route="/docs/assets/:name"');
    expect(text).not.toMatch(/seen/);
  });
});

test('the age of the oldest snapshot is seen while it lasts, without a round of maintenance', async () => {
  const service = await startService({ SNAPSHOT_WATCH_SECONDS: 0.05, MAINTENANCE_INTERVAL_SECONDS: 3_600 });
  const age = async () =>
    Number(
      /^tidings_oldest_snapshot_seconds (.+)$/m.exec(
        await (await fetch(`${service.url}/metrics`)).text(),
      )?.[1],
    );
  const reader = new pg.Client({ connectionString: service.database.url });
  await reader.connect();
  await reader.query('begin isolation level repeatable read; select 1');
  let first = 0;
  await eventually(async () => expect((first = await age())).toBeGreaterThan(0.1));
  await eventually(async () => expect(await age()).toBeGreaterThan(first + 0.1));
  await reader.query('commit');
  await eventually(async () => expect(await age()).toBeLessThan(first));
  await reader.end();
  await service.close();
});

describe('GET /metrics beside everything that a tenant can do', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service.close());

  test('names no tenant, user, topic, device, type, publisher, key or issuer', async () => {
    const { url } = service;
    const tenant = 'seen-tenant';
    const user = userToken({ tenant, user: 'seen-user', topics: ['seen-topic'], device: 'seen-device' });
    const publisher = serviceToken({ tenant, client: 'seen-client' });
    const stream = await StreamClient.open(url, user);
    await stream.untilEvent('caught-up');
    const recipients = [{ user: 'seen-user' }, { topic: 'seen-topic' }, { everyone: true }];
    for (const to of recipients) {
      const body = { to, type: 'seen.type', data: 'seen-data' };
      const headers = { 'idempotency-key': `seen-key-${JSON.stringify(to)}` };
      await post(`${url}/v1/notifications`, publisher, body, headers);
    }
    const [first] = await stream.untilNotifications(3);
    await post(`${url}/v1/acks`, user, { upTo: first?.position });
    await post(`${url}/v1/stream/tickets`, user, {});
    const admin = serviceToken({
      tenant,
      client: 'seen-admin',
      scope: 'tenants:admin operations:write history:read',
    });
    const issuer = new KeyIssuer('https://seen.example/').registration({ tenants: [tenant] });
    await call('POST', `${url}/v1/issuers`, admin, issuer);
    await call('POST', `${url}/v1/revocations`, admin, { user: 'seen-other' });
    for (const path of ['/v1/notifications', '/v1/connections', '/v1/audit'])
      await get(`${url}${path}`, admin);
    await fetch(`${url}/v1/users/seen-user/data`, { headers: { authorization: `Bearer ${admin}` } });
    await stream.cut();
    await call('DELETE', `${url}/v1/users/seen-user/data`, admin);
    await call('DELETE', `${url}/v1/tenants/${tenant}`, admin);
    const { status } = await call('POST', `${url}/v1/notifications`, publisher, { seen: 1 });
    expect(status).toBe(403);

    const text = await (await fetch(`${url}/metrics`)).text();
    expect(text).toContain('tidings_acknowledgements_total 1');
    expect(text).toContain('route="/v1/users/:id/data"');
    expect(text).not.toMatch(/seen/);
  });
});

describe('metrics at an address of their own', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({ METRICS_PORT: '0' });
  });
  afterAll(() => service.close());

  const url = (path: string) => `http://127.0.0.1:${service.app.get(MetricsListener).port}${path}`;

  test('are there, and not at that of the API', async () => {
    const { status, headers } = await fetch(url('/metrics?any'));
    expect([status, headers.get('content-type')]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
    expect(await (await fetch(url('/metrics'))).text()).toContain('# TYPE tidings_connections gauge');
    expect((await fetch(`${service.url}/metrics`)).status).toBe(404);
  });

  test('have nothing beside them', async () => {
    expect((await fetch(url('/health/live'))).status).toBe(404);
    expect((await fetch(url('/metrics'), { method: 'POST' })).status).toBe(405);
    const head = await fetch(url('/metrics'), { method: 'HEAD' });
    expect([head.status, await head.text()]).toEqual([200, '']);
  });

  test('take no more than a hundred connections', async () => {
    const connections = await Promise.all(
      Array.from({ length: 110 }, () => RawConnection.open(url('/metrics'))),
    );
    const first = await Promise.race(connections.map(async (each) => each.closed.then(() => each)));
    // One that took too long for its request would be told so.
    expect(first.raw).toBe('');
    for (const { socket } of connections) socket.destroy();
  });

  test('keep the service from starting where the port is taken, and say which setting it is', async () => {
    const taken = String(service.app.get(MetricsListener).port);
    const started = startService({ METRICS_PORT: taken }, { database: service.database });
    await expect(started).rejects.toThrow(/METRICS_PORT/);
  });
});
