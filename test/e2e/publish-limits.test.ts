import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { RejectionThrottle } from '../../src/publishing/publish-admission.ts';
import { adminOf, call, type ProblemBody } from '../support/admin.ts';
import { post, type Answer, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * Two nodes on one database. Time pays what a tenant has spent, by one a second at least: so tenants spend hundreds here, of
 * which a slow machine gets few back meanwhile.
 */

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
  jest.restoreAllMocks();
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

/** What another node is told counts on this one, too: it looks every CHANGES_POLL_MS, and now. */
const look = (node: Service) => node.app.get(ChangeFeed).now();

/** Leaves the tenant one a second, of which it has spent those of a quarter of an hour or so on the node `one`. */
const exhaust = (tenant: string) => limit(tenant, { notificationsPerSecond: 1, burst: 1 });
async function tenantInDebt(): Promise<string> {
  const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
  expect((await attempt(one, tenant, { batch: 1_000 })).status).toBe(201);
  await exhaust(tenant);
  return tenant;
}

/** What is left by an answer. */
const leftOf = ({ left }: { left: string }) => Number(/^"notifications";r=(\d+);t=\d+$/.exec(left)?.[1]);

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
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
    const policy = '"notifications";q=1000;w=1000';
    const began = performance.now();
    /** So much is left, and what time has paid since. */
    const expectLeft = ({ policy: told, left }: { policy: string; left: string }, least: number) => {
      const rest = leftOf({ left });
      expect([told, left]).toEqual([policy, `"notifications";r=${rest};t=${rest}`]);
      expect(rest).toBeGreaterThanOrEqual(least);
      expect(rest).toBeLessThanOrEqual(
        Math.min(1_000, least + Math.ceil((performance.now() - began) / 1_000)),
      );
    };
    const single = await attempt(one, tenant);
    expect(single.status).toBe(201);
    expectLeft(single, 999);
    expect(single.headers.get('access-control-expose-headers')).toBeNull();
    const batch = await attempt(one, tenant, { batch: 200 });
    expect(batch.status).toBe(201);
    expectLeft(batch, 799);
    const users = await attempt(one, tenant, {
      to: { users: Array.from({ length: 40 }, (_, n) => `u${n}`) },
    });
    expect(users.status).toBe(201);
    expectLeft(users, 759);
    const refusals = [
      await attempt(one, tenant, { raw: '{' }),
      await attempt(one, tenant, { to: {} }),
      await attempt(one, tenant, {
        token: serviceToken({ tenant, scope: 'notifications:publish' }),
        to: { everyone: true },
      }),
    ];
    expect(refusals.map(({ status }) => status)).toEqual([400, 400, 403]);
    for (const refusal of refusals) expectLeft(refusal, 759);
  });

  test('is nobody’s business who may not publish', async () => {
    const tenant = await tenantInDebt();
    expect((await attempt(one, tenant)).status).toBe(429);
    for (const token of [userToken({ tenant }), serviceToken({ tenant, scope: 'history:read' })]) {
      const { status, body, policy, left } = await attempt(one, tenant, { token });
      expect([status, body.code, policy, left]).toEqual([403, 'scope_missing', '', '']);
    }
    const stranger = await attempt(one, tenant, { token: 'x.y.z' });
    expect([stranger.status, stranger.policy, stranger.left]).toEqual([401, '', '']);
  });

  test.each([
    ['for its limits', 429, tenantInDebt, {}],
    [
      'for a body that is not valid',
      400,
      () => tenantWith({ notificationsPerSecond: 1, burst: 1_000 }),
      { to: {} },
    ],
  ])('makes those who are refused %s wait for one another', async (_, status, makeTenant, how) => {
    const flood = await makeTenant();
    const turns = jest.spyOn(one.app.get(RejectionThrottle), 'turn');
    const refuse200 = () => Promise.all(Array.from({ length: 200 }, () => attempt(one, flood, how)));
    // The connections are made in the first round: in the second all come at once.
    await refuse200();
    const began = performance.now();
    const refused = await refuse200();
    expect(performance.now() - began).toBeGreaterThan(900);
    expect(new Set(refused.map((each) => each.status))).toEqual(new Set([status]));
    expect(turns.mock.calls).toEqual(Array(400).fill([flood]));
  });

  test('makes nobody wait for those of another tenant who are refused', async () => {
    const refusals = one.app.get(RejectionThrottle);
    const now = performance.now();
    const clock = jest.spyOn(performance, 'now').mockReturnValue(now);
    const order: string[] = [];
    const turn = async (tenant: string) => {
      await refusals.turn(tenantIdSchema.parse(tenant));
      order.push(tenant);
    };
    const all = ['crowd', 'crowd', 'crowd', 'neighbour'].map(turn);
    clock.mockRestore();
    await Promise.all(all);
    // Who need not wait has no timer.
    expect(order).toEqual(['crowd', 'neighbour', 'crowd', 'crowd']);
  });

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
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
    const began = performance.now();
    expect((await attempt(one, tenant, { batch: 500 })).status).toBe(201);
    const large = await attempt(one, tenant, { batch: 1_000 });
    expect([large.status, large.body.code]).toEqual([429, 'rate_limited']);
    const waited = Math.ceil((performance.now() - began) / 1_000);
    expect(large.retryAfter).toBeGreaterThanOrEqual(500 - waited);
    expect(large.retryAfter).toBeLessThanOrEqual(500);
    expect((await attempt(one, tenant, { batch: 500 })).status).toBe(201);
    const again = await attempt(one, tenant, { batch: 500 });
    expect([again.status, again.body.code]).toEqual([429, 'rate_limited']);
    expect(await stored(tenant)).toBe(1_000);
    // The one thing here that only time can bring, and not before it has.
    await eventually(async () => expect((await attempt(one, tenant, { batch: 2 })).status).toBe(201));
    expect(performance.now() - began).toBeGreaterThan(1_990);
    expect(await stored(tenant)).toBe(1_002);
    await exhaust(tenant);
    const single = await attempt(one, tenant);
    expect([single.status, single.body.code]).toEqual([429, 'rate_limited']);
    expect(single.left).toBe(`"notifications";r=0;t=${single.retryAfter}`);
  });

  test('is refused before anybody reads what it sends', async () => {
    const tenant = await tenantInDebt();
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
      await tenantInDebt(),
      await tenantWith({ notificationsPerSecond: 1, burst: 100 }),
    ];
    const flood = await Promise.all(Array.from({ length: 50 }, () => attempt(one, flooder)));
    expect(flood.map(({ status }) => status)).toEqual(Array(50).fill(429));
    const answer = await attempt(one, neighbour);
    expect(answer.status).toBe(201);
    expect(leftOf(answer)).toBeGreaterThanOrEqual(99);
  });

  test('is answered what it was answered before, at no cost', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
    const key = (name: string) => ({ headers: { 'idempotency-key': name } });
    const first = await attempt(one, tenant, key('first'));
    const batch = await attempt(one, tenant, { ...key('batch'), batch: 3 });
    const rest = await attempt(one, tenant, { batch: 996 });
    await exhaust(tenant);
    await look(other);
    expect([first, batch, rest, await attempt(one, tenant)].map(({ status }) => status)).toEqual([
      201, 201, 201, 429,
    ]);
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
    expect(await stored(tenant)).toBe(1_000);
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
    expect(leftOf(await attempt(other, tenant))).toBeGreaterThanOrEqual(49);
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
    const tenant = await tenantInDebt();
    log.length = 0;
    const started = performance.now();
    const told = () => log.filter(({ msg }) => msg.startsWith('publishes are refused'));
    // The line of the second in which it ran into debt was before these.
    for (let n = 0; n < 60 || told().length === 0; n += 1) await attempt(one, tenant);
    const seconds = (performance.now() - started) / 1000;
    const lines = told();
    expect(lines.length).toBeLessThanOrEqual(1 + Math.ceil(seconds));
    expect(lines.at(-1)).toMatchObject({ level: 'warn', tenants: expect.arrayContaining([tenant]) });
    // Those that were let in have their line; those that were not have none.
    expect(log.filter(({ msg, status }) => msg === 'request' && status === 429)).toEqual([]);
    const metrics = await (await fetch(`${one.url}/metrics`)).text();
    const limited = /^tidings_publish_requests_total\{result="limited"\} (\d+)$/m.exec(metrics)?.[1];
    expect(Number(limited)).toBeGreaterThanOrEqual(60);
    expect(metrics).not.toContain(tenant);
  });
});

describe('what an administrator changes', () => {
  test('counts on the node that was told at once, and on others with their next look: more, and less', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
    // Neither has heard of what the other lets through.
    for (const node of [one, other]) expect((await attempt(node, tenant, { batch: 1_000 })).status).toBe(201);
    for (const node of [one, other]) expect((await attempt(node, tenant, { batch: 500 })).status).toBe(429);
    await limit(tenant, { notificationsPerSecond: 1, burst: 10_000 });
    expect((await attempt(one, tenant, { batch: 500 })).status).toBe(201);
    await look(other);
    expect((await attempt(other, tenant, { batch: 500 })).status).toBe(201);
    await exhaust(tenant);
    for (const node of [one, other]) {
      if (node === other) await look(other);
      expect((await attempt(node, tenant)).status).toBe(429);
    }
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
    await look(other);
    expect((await attempt(other, tenant, { data: 'x'.repeat(98) })).status).toBe(400);
    expect((await attempt(one, 'another', { data: 'x'.repeat(99) })).status).toBe(201);
  });
});

describe('nodes that share an account', () => {
  test('let a tenant through at its rate, and once a burst for each node more', async () => {
    const rate = 40;
    const burst = 60;
    const tenant = await tenantWith({ notificationsPerSecond: rate, burst });
    const started = performance.now();
    let through = 0;
    const flood = async (node: Service) => {
      // More than both bursts, so that the rate has to pay.
      while (through < 4 * burst)
        if ((await attempt(node, tenant, { batch: 5 })).status === 201) through += 5;
    };
    await Promise.all([one, one, one, other, other, other].map(flood));
    const seconds = (performance.now() - started) / 1000;
    expect(await stored(tenant)).toBe(through);
    expect(through).toBeLessThanOrEqual(rate * seconds + 2 * burst);
  });

  test('know what was spent, also one that meets the tenant only now', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
    expect((await attempt(one, tenant, { batch: 1_000 })).status).toBe(201);
    const third = await startService({ NODE_NAME: 'third' }, { database: one.database });
    more.push(third);
    expect((await attempt(third, tenant, { batch: 900 })).status).toBe(429);
  });

  test('each spend it for the other', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
    const began = performance.now();
    expect((await attempt(one, tenant, { batch: 600 })).status).toBe(201);
    // It has not heard of it, and hears with its own append.
    const blind = await attempt(other, tenant, { batch: 600 });
    expect(blind.status).toBe(201);
    const refused = await attempt(other, tenant);
    expect([refused.status, refused.retryAfter]).toEqual([429, expect.any(Number)]);
    // 200 too many, of which time has paid some, and the one that it asks for.
    const least = 200 - Math.ceil((performance.now() - began) / 1_000);
    const told = Number(/^"notifications";r=0;t=(\d+)$/.exec(blind.left)?.[1]);
    for (const wait of [told, refused.retryAfter]) {
      expect(wait).toBeGreaterThanOrEqual(least);
      expect(wait).toBeLessThanOrEqual(201);
    }
  });

  test('find it as it was after a restart', async () => {
    const tenant = await tenantWith({ notificationsPerSecond: 1, burst: 1_000 });
    const first = await startService({}, { database: one.database });
    expect((await attempt(first, tenant, { batch: 1_000 })).status).toBe(201);
    await first.close();
    const second = await startService({}, { database: one.database });
    more.push(second);
    const answer = await attempt(second, tenant, { batch: 900 });
    expect(answer.status).toBe(429);
    expect(leftOf(answer)).toBeLessThan(900);
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
         from tenant_logs s where tenant_id = $1`,
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
    await eventually(async () => expect(await publish(other)).toBe(201), { every: 100 });
    await eventually(async () => {
      expect([await publish(one), await publish(other)]).toEqual([403, 403]);
    });
    expect((await account())?.kept).toBe(full?.kept);

    await limit(tenant, { storedBytes: 1_000 });
    await eventually(async () => expect(await publish(one)).toBe(201));
  });
});
