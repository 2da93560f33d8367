import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { revokeUser } from '../support/acts.ts';
import { call, operatorOf, readerOf, type Page } from '../support/admin.ts';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { eraseUser, eraseWhole, exported, holding, rowsOf, untilErasure } from '../support/privacy.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let here: Service;
let there: Service;
beforeAll(async () => {
  here = await startService();
  there = await startService({ NODE_NAME: 'there' }, { database: here.database });
});
afterAll(async () => {
  await there.close();
  await here.close();
});

const TOPIC = 'news';
/** In every text that is about the user who will be erased. */
const MARK = 'zebra';
const USER = `user-${MARK}`;

const tokenOf = (tenant: string, user: string, device = 'phone') =>
  userToken({ tenant, user, device, topics: [TOPIC] });

const publisherOf = (tenant: string) => serviceToken({ tenant });

const send = (tenant: string, to: Record<string, unknown>, data: unknown = 'x') =>
  publish(here.url, publisherOf(tenant), { to, type: 't', data });

async function openLive(service: Service, token: string, lastEventId?: string): Promise<StreamClient> {
  const stream = await StreamClient.open(
    service.url,
    token,
    lastEventId === undefined ? {} : { lastEventId },
  );
  await stream.untilEvent('caught-up');
  return stream;
}

/** A stream of somebody else on each node: what a node has in memory of a tenant goes with the last one. */
const keepTails = (tenant: string) =>
  Promise.all([here, there].map((node) => openLive(node, tokenOf(tenant, 'bob'))));

/** Resolves when what these streams did is stored, with their ends, and no node counts any of them. */
const untilRecorded = (tenant: string, connections: number) =>
  eventually(async () => {
    const rows = await here.database.query(
      'select from connections where tenant_id = $1 and until is not null',
      [tenant],
    );
    expect(rows).toHaveLength(connections);
    const counted = await here.database.query('select from connection_counts where tenant_id = $1', [tenant]);
    expect(counted).toEqual([]);
  });

/** A user of whom something is in every table: on two nodes and two devices, sent and confirmed. */
async function live(tenant: string, user: string): Promise<void> {
  const streams = [
    await openLive(here, tokenOf(tenant, user)),
    await openLive(there, tokenOf(tenant, user, 'tablet')),
  ];
  const own = await send(tenant, { user }, `for ${user}`);
  await send(tenant, { topic: TOPIC });
  const last = await send(tenant, { everyone: true });
  // What others got before them may come first.
  for (const stream of streams)
    await stream.until(() => stream.notifications.some(({ id }) => id === last.id), 'the last of them');
  expect((await post(`${here.url}/v1/acks`, tokenOf(tenant, user), { upTo: last.position })).status).toBe(
    204,
  );
  for (const stream of streams) await stream.cut();
  const marks = { items: [{ id: own.id, archived: true }] };
  expect((await post(`${here.url}/v1/inbox/marks`, tokenOf(tenant, user), marks)).status).toBe(200);
}

async function furnish(tenant: string, user: string, other: string): Promise<void> {
  await live(tenant, user);
  await live(tenant, other);
  await untilRecorded(tenant, 4);
  const publisher = publisherOf(tenant);
  const item = (to: Record<string, unknown>, data: string) => ({ to, type: 't', data });
  const keyed = (key: string, body: object, path = '/v1/notifications') =>
    post(`${here.url}${path}`, publisher, body, { 'idempotency-key': key });
  await keyed('own', item({ user }, `for ${user}`));
  await keyed('others', item({ user: other }, 'for the other'));
  const batch = [item({ user: other }, 'a'), item({ user }, `for ${user}`), item({ topic: TOPIC }, 'b')];
  await keyed('both', { notifications: batch }, '/v1/notifications/batch');
  for (const name of [user, other]) {
    const ticket = await post(`${here.url}/v1/stream/tickets`, tokenOf(tenant, name), {});
    expect(ticket.status).toBe(201);
    const order = `${here.url}/v1/users/${name}/disconnect`;
    expect((await call('POST', order, operatorOf(tenant))).status).toBe(204);
    await revokeUser(here, tenant, name, new Date('2001-01-01'));
  }
}

/** Tables that name no user, in this test at least. */
const NAMELESS = ['connection_counts', 'erasures', 'idempotency_keys', 'tenant_logs', 'tenants'];

const isOf = (row: string): boolean => row.includes(MARK);

describe('the data of a user', () => {
  test('goes from every table, and nothing of anybody else does', async () => {
    await furnish('acme', USER, 'bob');
    await furnish('globex', USER, 'bob');
    const before = await rowsOf(here.database, 'acme');
    const foreign = await rowsOf(here.database, 'globex');
    // There is something of the user wherever there can be.
    for (const [table, rows] of Object.entries(before))
      expect([table, rows.some(isOf)]).toEqual([table, !NAMELESS.includes(table)]);

    await eraseWhole(there.url, 'acme', USER);

    const after = await rowsOf(here.database, 'acme');
    const {
      audit_log: acts = [],
      erasures = [],
      idempotency_keys: keys,
      revocations,
      tenant_logs: logs,
      ...rest
    } = after;
    for (const [table, rows] of Object.entries(rest))
      expect({ table, rows }).toEqual({ table, rows: before[table]?.filter((row) => !isOf(row)) });
    // Room for what went is given back.
    const sizes = before['notifications']?.filter(isOf).map((row) => Number(/"size": (\d+)/.exec(row)?.[1]));
    const given = sizes?.reduce((sum, size) => sum + size, 0);
    expect(given).toBeGreaterThan(0);
    expect(logs).toEqual(
      before['tenant_logs']?.map((row) => row.replace('"removed_bytes": 0', `"removed_bytes": ${given}`)),
    );
    // What an operator did before stays on record, and what is revoked stays revoked.
    expect(acts.filter(isOf)).toEqual(before['audit_log']?.filter(isOf));
    expect(revocations).toEqual(before['revocations']);
    expect(erasures).toHaveLength(1);
    expect(erasures.filter(isOf)).toEqual([]);
    expect(keys).toHaveLength(3);
    expect(await rowsOf(here.database, 'globex')).toEqual(foreign);
  });

  test('is found neither in history nor in an export, but for what is revoked', async () => {
    expect(await exported(here.url, 'acme', USER)).toEqual([expect.objectContaining({ kind: 'revocation' })]);
    const reader = readerOf('acme');
    const found = await get<Page<unknown>>(`${here.url}/v1/notifications?user=${USER}`, reader);
    expect(found.body.items).toEqual([]);
    const connections = `${here.url}/v1/connections?user=${USER}&since=2020-01-01T00:00:00Z`;
    expect((await get<Page<unknown>>(connections, reader)).body.items).toEqual([]);
    // Broadcasts stay, and name the devices of the others alone.
    const all = await get<Page<{ id: string; to: object; counts: object }>>(
      `${here.url}/v1/notifications`,
      reader,
    );
    const broadcast = all.body.items.find(({ to }) => 'everyone' in to);
    const devices = await get<Page<{ user: string; device: string; firstSentAt: string | null }>>(
      `${here.url}/v1/notifications/${broadcast?.id}/devices`,
      reader,
    );
    const sent = expect.any(String);
    expect(devices.body.items).toMatchObject([
      { user: 'bob', device: 'phone', firstSentAt: sent },
      { user: 'bob', device: 'tablet', firstSentAt: sent },
    ]);
  });

  test('leaves a record that tells who knows the user, and nobody else, whom it was about', async () => {
    const { body } = await get<
      Page<{ action: string; target: string; actor: object; after: { erasure: string; erased?: object } }>
    >(`${here.url}/v1/audit?limit=2`, readerOf('acme'));
    const [done, ordered] = body.items;
    const target = `sha256:${createHash('sha256').update(`${ordered?.after.erasure}:${USER}`).digest('hex')}`;
    const actor = { kind: 'service', tenant: 'acme', subject: 'operator', issuer: 'tidings' };
    expect(ordered).toMatchObject({ action: 'user.erase', target, actor });
    expect(done).toMatchObject({
      action: 'user.erased',
      target,
      actor,
      after: {
        erasure: ordered?.after.erasure,
        erased: {
          notifications: 3,
          devices: 2,
          connections: 2,
          answers: 2,
          tickets: 1,
          orders: 1,
          inbox: 1,
          marks: 1,
          engagements: 1,
        },
      },
    });
    expect(JSON.stringify(body)).not.toContain(MARK);
  });

  test('may be erased again, and when there was none', async () => {
    for (const user of [USER, 'nobody']) await eraseWhole(here.url, 'acme', user);
    await eraseWhole(here.url, 'never-seen', 'nobody');
  });

  test('is erased once by all who ask at the same time', async () => {
    await send('acme', { user: 'often' });
    await Promise.all([here, there, here, there].map(({ url }) => eraseWhole(url, 'acme', 'often')));
    const rows = await here.database.query(
      `select from audit_log where tenant_id = 'acme' and action = 'user.erased' and at > (
         select max(at) from audit_log where action = 'user.erase')`,
    );
    expect(rows).toHaveLength(1);
  });

  test.each(['%00', 'a%0Ab', encodeURIComponent('x'.repeat(257))])('has no owner that is %s', async (id) => {
    const { status } = await call('DELETE', `${here.url}/v1/users/${id}/data`, operatorOf('acme'));
    expect(status).toBe(404);
  });
});

describe('a publisher that repeats a request', () => {
  test('publishes nothing anew, and the others of its batch get nothing twice', async () => {
    const tenant = 'repeating';
    const publisher = publisherOf(tenant);
    const body = { to: { users: ['bob', USER, 'carol'] }, type: 't', data: 1 };
    const headers = { 'idempotency-key': 'k' };
    const ask = () =>
      post<{ notifications: (StoredAnswer & { user: string })[] }>(
        `${there.url}/v1/notifications`,
        publisher,
        body,
        headers,
      );
    const first = await ask();
    await eraseWhole(here.url, tenant, USER);
    const again = await ask();
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    const [bob, erased, carol] = first.body.notifications;
    expect(again.body.notifications).toEqual([
      bob,
      { ...erased, id: '00000000-0000-0000-0000-000000000000' },
      carol,
    ]);
    const log = await here.database.query(
      `select user_id from notifications where tenant_id = $1 order by position`,
      [tenant],
    );
    expect(log.map(({ user_id: user }) => String(user))).toEqual(['bob', 'carol']);
  });
});

describe('a user who is erased', () => {
  test('loses every stream, on every node, while those of others go on and miss nothing', async () => {
    const tenant = 'streaming';
    const theirs = [
      await openLive(here, tokenOf(tenant, USER)),
      await openLive(there, tokenOf(tenant, USER, 'tablet')),
    ];
    const others = [
      await openLive(here, tokenOf(tenant, 'bob')),
      await openLive(there, tokenOf(tenant, 'bob', 'tablet')),
    ];
    const stored: string[] = [];
    const stop = new AbortController();
    const publishing = (async () => {
      for (let n = 0; !stop.signal.aborted; n += 1) {
        await send(tenant, { user: USER }, n);
        stored.push((await send(tenant, n % 2 === 0 ? { user: 'bob' } : { topic: TOPIC }, n)).position);
      }
    })();
    await eventually(() => expect(stored.length).toBeGreaterThan(20));
    await eraseWhole(here.url, tenant, USER);
    for (const stream of theirs) {
      await stream.closed;
      expect(stream.named('bye')).toEqual([
        { reason: 'revoked', reconnect: false, retryAfterMs: expect.any(Number) },
      ]);
    }
    const count = stored.length;
    await eventually(() => expect(stored.length).toBeGreaterThan(count + 20));
    stop.abort();
    await publishing;
    for (const stream of others) {
      await stream.untilNotifications(stored.length);
      expect(stream.notifications.map(({ position }) => position)).toEqual(stored);
      await stream.cut();
    }
  });

  test('keeps what is published afterwards, and nothing of what was before', async () => {
    const tenant = 'going-on';
    const stored: number[] = [];
    const others = await keepTails(tenant);
    const stop = new AbortController();
    const publishing = Promise.all(
      [here, there].map(async ({ url }) => {
        while (!stop.signal.aborted) {
          const answer = await publish(url, publisherOf(tenant), { to: { user: USER }, type: 't', data: 1 });
          stored.push(Number(answer.position));
        }
      }),
    );
    await eventually(() => expect(stored.length).toBeGreaterThan(20));
    await eraseWhole(there.url, tenant, USER);
    const count = stored.length;
    await eventually(() => expect(stored.length).toBeGreaterThan(count + 20));
    stop.abort();
    await publishing;
    const [cut] = await here.database.query<{ position: number }>(
      'select max(position) as position from erasures where tenant_id = $1',
      [tenant],
    );
    const kept = await here.database.query<{ position: number }>(
      'select position from notifications where tenant_id = $1 order by position',
      [tenant],
    );
    const position = cut?.position ?? 0;
    const expected = stored.filter((each) => each > position).sort((a, b) => a - b);
    expect(expected.length).toBeGreaterThan(20);
    expect(kept.map((row) => row.position)).toEqual(expected);

    for (const node of [here, there]) {
      const back = await openLive(node, tokenOf(tenant, USER), '0');
      expect(back.notifications.map((each) => Number(each.position))).toEqual(expected);
      await back.cut();
    }
    for (const stream of others) await stream.cut();
  });

  test('comes back as somebody new: an old position is exact, and without one everything that is kept comes', async () => {
    const tenant = 'coming-back';
    const others = await keepTails(tenant);
    const old = await openLive(here, tokenOf(tenant, USER));
    await send(tenant, { user: USER }, 'mine');
    const toAll = await send(tenant, { everyone: true }, 'to all');
    await old.untilNotifications(2);
    await send(tenant, { user: USER }, 'mine, unread');
    expect((await post(`${here.url}/v1/acks`, tokenOf(tenant, USER), { upTo: toAll.position })).status).toBe(
      204,
    );
    const last = String(old.lastEventId);
    await eraseWhole(there.url, tenant, USER);
    await old.closed;

    // Without a device nothing can be confirmed.
    const ack = await post(`${here.url}/v1/acks`, tokenOf(tenant, USER), { upTo: toAll.position });
    expect(ack).toMatchObject({ status: 404, body: { code: 'device_unknown' } });

    const resumed = await openLive(there, tokenOf(tenant, USER), last);
    expect(resumed.named('sync')).toMatchObject([{ resume: 'exact', from: last }]);
    expect(resumed.notifications).toEqual([]);
    const anew = await openLive(here, tokenOf(tenant, USER, 'new'));
    expect(anew.named('sync')).toMatchObject([{ resume: 'undelivered' }]);
    const { position } = await send(tenant, { user: USER }, 'news');
    for (const stream of [resumed, anew])
      await stream.until(() => stream.lastEventId === position, 'what is new');
    expect(resumed.notifications.map(({ data }) => data)).toEqual(['news']);
    expect(anew.notifications.map(({ data }) => data).at(-1)).toBe('news');
    expect(anew.notifications.some(({ data }) => String(data).startsWith('mine'))).toBe(false);
    for (const stream of [resumed, anew, ...others]) await stream.cut();
  });

  test('does not open a stream, renew one or get a ticket meanwhile, and then does', async () => {
    const tenant = 'meanwhile';
    await send(tenant, { user: USER });
    const stream = await openLive(here, tokenOf(tenant, USER));
    const { connectionId } = stream.named('sync')[0] ?? {};
    const release = await holding(
      here.database,
      `select from notifications where tenant_id = '${tenant}' for update`,
    );
    const { status, headers, body } = await eraseUser(here.url, tenant, USER);
    expect(status).toBe(202);
    // When every node has nothing of it in memory.
    await untilErasure(here.url, tenant, body.id, 'erasing');
    expect(headers.get('location')).toBe(`/v1/erasures/${body.id}`);
    await stream.closed;

    for (const { url } of [here, there]) {
      const refused = await StreamClient.open(url, tokenOf(tenant, USER));
      await refused.closed;
      expect(refused.named('bye')).toMatchObject([{ reason: 'unavailable', reconnect: true }]);
      const ticket = await post(`${url}/v1/stream/tickets`, tokenOf(tenant, USER), {});
      expect(ticket).toMatchObject({ status: 503, body: { code: 'being_erased' } });
      expect(ticket.headers.get('retry-after')).toBe('2');
      // The stream of somebody else does not notice.
      await (await openLive({ ...here, url }, tokenOf(tenant, 'bob'))).cut();
    }
    const renewal = { connectionId, token: tokenOf(tenant, USER) };
    const renewed = await post(`${here.url}/v1/stream/renewals`, tokenOf(tenant, USER), renewal);
    expect(renewed.status).toBe(404);

    await release();
    await untilErasure(here.url, tenant, body.id, 'done');
    await (await openLive(here, tokenOf(tenant, USER))).cut();
  });
});

describe('a user whose id no path can carry', () => {
  test.each([
    ['one dot', '.'],
    ['two dots', '..'],
    ['256 slashes', '/'.repeat(256)],
  ])('(%s) is disconnected, shown and erased by an ordinary client', async (_, user) => {
    const tenant = 'unspeakable';
    const query = new URLSearchParams({ user }).toString();
    const at = (path: string) => `${here.url}/v1/users/${path}?${query}`;
    const lines = async () => {
      const response = await fetch(at('data'), { headers: { authorization: `Bearer ${readerOf(tenant)}` } });
      expect(response.status).toBe(200);
      return await response.text();
    };
    await send(tenant, { user });
    const stream = await openLive(here, tokenOf(tenant, user));
    expect((await call('POST', at('disconnect'), operatorOf(tenant))).status).toBe(204);
    expect(await stream.untilEvent('bye')).toMatchObject({ reason: 'revoked' });
    await stream.closed;
    expect(await lines()).toContain('"kind":"device"');
    const { status, body } = await call<{ id: string }>('DELETE', at('data'), operatorOf(tenant));
    if (status === 202) await untilErasure(here.url, tenant, body.id, 'done');
    else expect(status).toBe(204);
    expect(await lines()).toBe('');
  });

  test('is one user: no parameter, two of them and an unknown one are refused', async () => {
    for (const query of ['', '?user=', '?user=a&user=b', '?user=a&id=b']) {
      const answer = await call('DELETE', `${here.url}/v1/users/data${query}`, operatorOf('unspeakable'));
      expect([query, answer.status]).toEqual([query, 400]);
    }
  });
});
