import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { adminOf, call, type ProblemBody } from '../support/admin.ts';
import { post, type Answer, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { promised } from '../support/promised.ts';

/* Two nodes on one database. */

const SECOND = { within: promised(1_000) };
const admin = adminOf('ops');
const log: { msg: string; level: string; [field: string]: unknown }[] = [];

let one: Service;
let other: Service;
const more: Service[] = [];
beforeAll(async () => {
  const logs = { write: (line: string) => void log.push(JSON.parse(line)) };
  one = await startService({ LOG_LEVEL: 'info', NODE_NAME: 'one' }, { logs });
  other = await startService({ NODE_NAME: 'other' }, { database: one.database });
});
afterEach(async () => {
  for (const node of more.splice(0)) await node.close();
});
afterAll(async () => {
  await other.close();
  await one.close();
});

let tenants = 0;
/** A tenant with these limits, on both nodes. */
async function tenantWith(limits: Record<string, number>): Promise<string> {
  const id = `limited-${(tenants += 1)}`;
  expect((await call('POST', `${one.url}/v1/tenants`, admin, { id, limits })).status).toBe(201);
  await eventually(async () => {
    for (const node of [one, other])
      expect((await attempt(node, id, { raw: '{' })).policy).toMatch(
        new RegExp(`q=${limits['burst'] ?? 20_000};`),
      );
  });
  return id;
}
const limit = (tenant: string, limits: Record<string, number | null>) =>
  call('PATCH', `${one.url}/v1/tenants/${tenant}`, admin, { limits });

const note = (to: object = { user: 'u' }, data: unknown = 1) => ({ to, type: 't', data });

interface Attempt {
  to?: object;
  data?: unknown;
  batch?: number;
  headers?: Record<string, string>;
  token?: string;
  /** In place of a body. */
  raw?: string;
}

/** Publishes, or tries to. */
async function attempt(
  node: Service,
  tenant: string,
  { to, data, batch, headers = {}, token = serviceToken({ tenant }), raw }: Attempt = {},
): Promise<Answer<StoredAnswer & ProblemBody> & { policy: string; left: string; retryAfter: number }> {
  const path = batch === undefined ? 'v1/notifications' : 'v1/notifications/batch';
  const item = note(to, data);
  const body =
    raw ?? (batch === undefined ? item : { notifications: Array.from({ length: batch }, () => item) });
  const answer = await post<StoredAnswer & ProblemBody>(`${node.url}/${path}`, token, body, headers);
  return {
    ...answer,
    policy: answer.headers.get('ratelimit-policy') ?? '',
    left: answer.headers.get('ratelimit') ?? '',
    retryAfter: Number(answer.headers.get('retry-after')),
  };
}

async function stored(tenant: string): Promise<number> {
  const [row] = await one.database.query<{ n: number }>(
    `select count(*)::int as n from notifications where tenant_id = $1`,
    [tenant],
  );
  return row?.n ?? 0;
}

describe('the account of a tenant', () => {
  test('stands in every answer, and falls by the notifications that a request makes', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 100 });
    const policy = '"notifications";q=100;w=100';
    const single = await attempt(one, tenant);
    expect([single.status, single.policy, single.left]).toEqual([201, policy, '"notifications";r=99;t=99']);
    expect(single.headers.get('access-control-expose-headers')).toBeNull();
    const batch = await attempt(one, tenant, { batch: 20 });
    expect([batch.status, batch.left]).toEqual([201, expect.stringMatching(/^"notifications";r=(79|80);/)]);
    const users = await attempt(one, tenant, { to: { users: ['a', 'b', 'c', 'd'] } });
    expect([users.status, users.left]).toEqual([201, expect.stringMatching(/^"notifications";r=7[5-7];/)]);
    const refusals = [
      await attempt(one, tenant, { raw: '{' }),
      await attempt(one, tenant, { to: {} }),
      await attempt(one, tenant, {
        token: serviceToken({ tenant, scope: 'notifications:publish' }),
        to: { everyone: true },
      }),
    ];
    expect(refusals.map(({ status }) => status)).toEqual([400, 400, 403]);
    for (const { left, policy: told } of refusals)
      expect([told, left]).toEqual([policy, expect.stringMatching(/^"notifications";r=7[5-9];t=7[5-9]$/)]);
  });

  test('is nobody’s business who may not publish', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1 });
    await attempt(one, tenant);
    expect((await attempt(one, tenant)).status).toBe(429);
    for (const token of [userToken({ tenant }), serviceToken({ tenant, scope: 'history:read' })]) {
      const { status, body, policy, left } = await attempt(one, tenant, { token });
      expect([status, body.code, policy, left]).toEqual([403, 'scope_missing', '', '']);
    }
    const stranger = await attempt(one, tenant, { token: 'x.y.z' });
    expect([stranger.status, stranger.policy, stranger.left]).toEqual([401, '', '']);
  });

  test.each([
    ['for its limits', 429, 1, {}],
    ['for a body that is not valid', 400, 1_000, { to: {} }],
  ])(
    'makes those who are refused %s wait for one another, and nobody else',
    async (_, status, burst, how) => {
      const flood = await tenantWith({ notificationsPerSecond: 1, burst });
      const neighbour = await tenantWith({ notificationsPerSecond: 1, burst });
      for (const tenant of [flood, neighbour]) expect((await attempt(one, tenant)).status).toBe(201);
      // A second later there is room for one again.
      const untilRefused = async (tenant: string): Promise<void> => {
        const answer = await attempt(one, tenant, how);
        if (answer.status === 201) await untilRefused(tenant);
        else expect(answer.status).toBe(status);
      };
      const flooded: number[] = [];
      const refuse200 = () =>
        Array.from({ length: 200 }, async () => {
          flooded.push((await attempt(one, flood, how)).status);
        });
      // The connections are made in the first round: in the second all come at once.
      await Promise.all(refuse200());
      flooded.length = 0;
      const began = performance.now();
      const refused = refuse200();
      await eventually(() => expect(flooded.length).toBeGreaterThanOrEqual(10));
      await untilRefused(neighbour);
      expect(flooded.length).toBeLessThan(190);
      await Promise.all(refused);
      expect(performance.now() - began).toBeGreaterThan(900);
      expect(flooded.filter((each) => each === status).length).toBeGreaterThan(190);
    },
  );

  test('may be read by pages of other origins', async () => {
    const origin = 'https://console.example';
    const node = await startService({ CORS_ORIGINS: origin }, { database: one.database });
    more.push(node);
    const { headers } = await attempt(node, 'pages', { headers: { origin } });
    const exposed = headers.get('access-control-expose-headers')?.split(', ');
    expect(exposed).toEqual(expect.arrayContaining(['RateLimit', 'RateLimit-Policy', 'Retry-After']));
  });
});

describe('a tenant that publishes more than it may', () => {
  test('is refused until the time that it is told is over, and nothing of it is stored', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 2, burst: 10 });
    expect((await attempt(one, tenant, { batch: 5 })).status).toBe(201);
    const large = await attempt(one, tenant, { batch: 10 });
    expect([large.status, large.body.code]).toEqual([429, 'rate_limited']);
    expect(large.retryAfter).toBeGreaterThanOrEqual(1);
    expect(large.retryAfter).toBeLessThanOrEqual(3);
    expect((await attempt(one, tenant, { batch: 5 })).status).toBe(201);
    const single = await attempt(one, tenant);
    expect([single.status, single.body.code, single.retryAfter]).toEqual([429, 'rate_limited', 1]);
    expect(single.left).toBe('"notifications";r=0;t=1');
    expect(await stored(tenant)).toBe(10);
    // The one thing here that only time can bring.
    await eventually(async () => expect((await attempt(one, tenant, { batch: 2 })).status).toBe(201), {
      within: 1_100,
    });
    expect(await stored(tenant)).toBe(12);
  });

  test('is refused before anybody reads what it sends', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1 });
    await attempt(one, tenant);
    expect((await attempt(one, tenant, { raw: 'no JSON at all' })).status).toBe(429);
    const socket = connect(Number(new URL(one.url).port), '127.0.0.1');
    const answer = new Promise<string>((resolve) =>
      socket.once('data', (bytes) => resolve(bytes.toString())),
    );
    socket.write(
      `POST /v1/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${serviceToken({ tenant })}\r\n` +
        `Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{`,
    );
    expect(await answer).toMatch(/^HTTP\/1\.1 429 /);
    socket.destroy();
  });

  test('hurts no other tenant', async () => {
    const [flooder, neighbour] = [
      await tenantWith({ notificationsPerSecond: 1, burst: 1 }),
      await tenantWith({ notificationsPerSecond: 100, burst: 100 }),
    ];
    const flood = await Promise.all(Array.from({ length: 50 }, () => attempt(one, flooder)));
    expect(flood.filter(({ status }) => status === 201).length).toBeLessThanOrEqual(2);
    const { status, left } = await attempt(one, neighbour);
    expect([status, left]).toEqual([201, expect.stringMatching(/^"notifications";r=99;t=/)]);
  });

  test('is answered what it was answered before, at no cost', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 4 });
    const key = (name: string) => ({ headers: { 'idempotency-key': name } });
    const first = await attempt(one, tenant, key('first'));
    const batch = await attempt(one, tenant, { ...key('batch'), batch: 3 });
    expect([first.status, batch.status, (await attempt(one, tenant)).status]).toEqual([201, 201, 429]);
    for (const node of [one, other]) {
      const again = await attempt(node, tenant, key('first'));
      expect([again.status, again.headers.get('idempotency-replayed'), again.body]).toEqual([
        201,
        'true',
        first.body,
      ]);
      expect((await attempt(node, tenant, { ...key('batch'), batch: 3 })).body).toEqual(batch.body);
      const mismatch = await attempt(node, tenant, { ...key('first'), data: 2 });
      expect([mismatch.status, mismatch.body.code]).toEqual([422, 'idempotency_mismatch']);
      const unknown = await attempt(node, tenant, key(`unknown to ${node.config.NODE_NAME}`));
      expect([unknown.status, unknown.body.code]).toEqual([400, 'validation_failed']);
      const fresh = await attempt(node, tenant, key(`fresh-${node.config.NODE_NAME}`));
      expect([fresh.status, fresh.body.code]).toEqual([429, 'rate_limited']);
    }
    expect(await stored(tenant)).toBe(4);
  });

  test('pays nothing for a key that is known, while there is something left', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 100 });
    const key = { headers: { 'idempotency-key': 'k' }, batch: 50 };
    const answers = [
      await attempt(one, tenant, key),
      await attempt(one, tenant, key),
      await attempt(other, tenant, key),
    ];
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 201]);
    const { left } = await attempt(other, tenant);
    expect(Number(/r=(\d+)/.exec(left)?.[1])).toBeGreaterThanOrEqual(49);
  });

  test('is told that it asks for more than would ever pass', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 100, burst: 5 });
    const { status, body } = await attempt(one, tenant, { batch: 6 });
    expect([status, body.code, body.errors]).toEqual([
      400,
      'validation_failed',
      [{ pointer: '/notifications', detail: expect.stringContaining('at most 5 ') }],
    ]);
    expect((await attempt(one, tenant, { batch: 5 })).status).toBe(201);
  });

  test('is heard of in the log once a second, and counted', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1 });
    await attempt(one, tenant);
    log.length = 0;
    const started = performance.now();
    for (let n = 0; n < 60; n += 1) await attempt(one, tenant);
    const seconds = (performance.now() - started) / 1000;
    const lines = log.filter(({ msg }) => msg.startsWith('publishes are refused'));
    expect(lines.length).toBeGreaterThanOrEqual(1);
    expect(lines.length).toBeLessThanOrEqual(1 + Math.ceil(seconds));
    expect(lines.at(-1)).toMatchObject({ level: 'warn', tenants: expect.arrayContaining([tenant]) });
    // Those that were let in have their line; those that were not have none.
    expect(log.filter(({ msg, status }) => msg === 'request' && status === 429)).toEqual([]);
    const metrics = await (await fetch(`${one.url}/metrics`)).text();
    const limited = /^tidings_publish_requests_total\{result="limited"\} (\d+)$/m.exec(metrics)?.[1];
    expect(Number(limited)).toBeGreaterThanOrEqual(50);
    expect(metrics).not.toContain(tenant);
  });
});

describe('what an administrator changes', () => {
  test('counts on both nodes within a second: more, and less', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1 });
    for (const node of [one, other]) await attempt(node, tenant);
    for (const node of [one, other]) expect((await attempt(node, tenant)).status).toBe(429);
    await limit(tenant, { notificationsPerSecond: 1_000, burst: 1_000 });
    expect((await attempt(one, tenant, { batch: 50 })).status).toBe(201);
    await eventually(
      async () => expect((await attempt(other, tenant, { batch: 50 })).status).toBe(201),
      SECOND,
    );
    await limit(tenant, { notificationsPerSecond: 1, burst: 1 });
    // Nothing is left of the smaller burst, and it would be too small.
    expect([400, 429]).toContain((await attempt(one, tenant, { batch: 2 })).status);
    await eventually(
      async () => expect([400, 429]).toContain((await attempt(other, tenant, { batch: 2 })).status),
      SECOND,
    );
  });

  test('is the payload size, too, and a known key keeps its answer', async () => {
    const tenant = await tenantWith({ dataBytes: 100 });
    const key = { headers: { 'idempotency-key': 'large' }, data: 'x'.repeat(98) };
    const first = await attempt(one, tenant, key);
    expect(first.status).toBe(201);
    const { status, body } = await attempt(one, tenant, { data: 'x'.repeat(99) });
    expect([status, body.errors]).toEqual([
      400,
      [{ pointer: '/data', detail: expect.stringContaining('at most 100 ') }],
    ]);
    await limit(tenant, { dataBytes: 50 });
    expect((await attempt(one, tenant, { data: 'x'.repeat(98) })).status).toBe(400);
    expect((await attempt(one, tenant, key)).body).toEqual(first.body);
    await eventually(
      async () => expect((await attempt(other, tenant, { data: 'x'.repeat(98) })).status).toBe(400),
      SECOND,
    );
    expect((await attempt(one, 'another', { data: 'x'.repeat(99) })).status).toBe(201);
  });
});

describe('nodes that share an account', () => {
  test('let a tenant through at its rate, and once a burst for each node more', async () => {
    const rate = 40;
    const burst = 60;
    const tenant = await tenantWith({ notificationsPerSecond: rate, burst });
    const third = await startService({ NODE_NAME: 'third' }, { database: one.database });
    more.push(third);
    const started = performance.now();
    const until = started + 3_000;
    const flood = async (node: Service) => {
      while (performance.now() < until) await attempt(node, tenant, { batch: 5 });
    };
    await Promise.all([one, one, one, other, other, other].map(flood));
    const seconds = (performance.now() - started) / 1000;
    const through = await stored(tenant);
    expect(through).toBeLessThanOrEqual(rate * seconds + 2 * burst);
    expect(through).toBeGreaterThanOrEqual(0.8 * rate * 3);
    // And what was spent is known to a third node that meets the tenant only now.
    expect((await attempt(third, tenant, { batch: 60 })).status).toBe(429);
  });

  test('each spend it for the other', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 30 });
    expect((await attempt(one, tenant, { batch: 20 })).status).toBe(201);
    // It has not heard of it, and hears with its own append.
    const blind = await attempt(other, tenant, { batch: 20 });
    expect([blind.status, blind.left]).toEqual([
      201,
      expect.stringMatching(/^"notifications";r=0;t=(9|10|11)$/),
    ]);
    const refused = await attempt(other, tenant);
    expect([refused.status, refused.retryAfter]).toEqual([429, expect.any(Number)]);
    expect(refused.retryAfter).toBeGreaterThanOrEqual(8);
  });

  test('find it as it was after a restart', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 50 });
    const first = await startService({}, { database: one.database });
    expect((await attempt(first, tenant, { batch: 50 })).status).toBe(201);
    await first.close();
    const second = await startService({}, { database: one.database });
    more.push(second);
    const { status, left } = await attempt(second, tenant, { batch: 20 });
    expect([status, left]).toEqual([429, expect.stringMatching(/^"notifications";r=\d;t=/)]);
  });
});

describe('what a tenant keeps', () => {
  const filled = 'x'.repeat(98);

  test('is limited on every node, and there is room again once data is erased or the limit is raised', async () => {
    const tenant = await tenantWith({ storedBytes: 250, burst: 777 });
    const publish = async (node: Service, user = 'alice') =>
      (await attempt(node, tenant, { to: { user }, data: filled })).status;
    const account = async () => {
      const [row] = await one.database.query<{ kept: number; counted: number }>(
        `select appended_bytes - removed_bytes as kept,
           (select sum(size) from notifications n where n.tenant_id = s.tenant_id)::int as counted
         from streams s where tenant_id = $1`,
        [tenant],
      );
      return row;
    };
    expect(await publish(other, 'bob')).toBe(201);
    // What one node stored another hears of with its next append, so that a little more may get in.
    await eventually(async () => {
      expect([await publish(one), await publish(other)]).toEqual([403, 403]);
    });
    const full = await account();
    expect(full?.kept).toBe(full?.counted);
    expect(full?.kept).toBeLessThanOrEqual(350);

    await limit(tenant, { storedBytes: full?.kept ?? 0 });
    const operator = serviceToken({ tenant, scope: 'operations:write' });
    // Nodes that were stopped a moment ago are waited for.
    const erased = await call('DELETE', `${one.url}/v1/users/bob/data`, operator);
    expect([202, 204]).toContain(erased.status);
    await eventually(async () => expect(await publish(other)).toBe(201), { within: 20_000, every: 100 });
    await eventually(async () => {
      expect([await publish(one), await publish(other)]).toEqual([403, 403]);
    });
    expect((await account())?.kept).toBe(full?.kept);

    await limit(tenant, { storedBytes: 1_000 });
    await eventually(async () => expect(await publish(one)).toBe(201));
  });
});
