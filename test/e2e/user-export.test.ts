import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { asPosition } from '../../src/core/position.ts';
import { HistoryService } from '../../src/history/history.service.ts';
import { exportLineSchemas } from '../../src/privacy/export.store.ts';
import { disconnect, revokeUser } from '../support/acts.ts';
import { readerOf } from '../support/admin.ts';
import { get, post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { exported } from '../support/privacy.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { historyItemSchema } from '../../src/history/history.openapi.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

const tokenOf = (tenant: string, user: string) =>
  userToken({ tenant, user, device: 'phone', topics: ['news'], claims: { topics: ['news'] } });

/** Everything that a user can have. Returns the ids of what was published to the user. */
async function live(tenant: string, user: string): Promise<string[]> {
  const { url } = service;
  const stream = await StreamClient.open(url, tokenOf(tenant, user));
  await stream.untilEvent('caught-up');
  const publisher = serviceToken({ tenant });
  const ids: string[] = [];
  for (const n of [1, 2]) ids.push((await publish(url, publisher, { to: { user }, type: 't', data: n })).id);
  const last = await publish(url, publisher, { to: { topic: 'news' }, type: 't', data: 'for all' });
  await stream.untilNotifications(3);
  expect((await post(`${url}/v1/acks`, tokenOf(tenant, user), { upTo: last.position })).status).toBe(204);
  await stream.cut();
  const keyed = { to: { users: ['other', user] }, type: 't', data: 'keyed' };
  const { body } = await post<{ notifications: { id: string; position: string }[] }>(
    `${url}/v1/notifications`,
    publisher,
    keyed,
    {
      'idempotency-key': `key of ${user}`.replaceAll(' ', '-'),
    },
  );
  const { id = '', position } = body.notifications[1] ?? {};
  ids.push(id);
  const marks = { seenUpTo: position, items: [{ id, read: true, archived: true }] };
  expect((await post(`${url}/v1/inbox/marks`, tokenOf(tenant, user), marks)).status).toBe(200);
  expect((await post(`${url}/v1/stream/tickets`, tokenOf(tenant, user), {})).status).toBe(201);
  await disconnect(service, tenant, user);
  await revokeUser(service, tenant, user, new Date('2001-01-01'));
  await eventually(async () => {
    const rows = await service.database.query(
      `select from connections c join sends s using (tenant_id, user_id, connection_id)
       where tenant_id = $1 and user_id = $2 and until is not null`,
      [tenant, user],
    );
    expect(rows).not.toEqual([]);
  });
  return ids;
}

describe('the export of a user', () => {
  test('has everything of that user, each line as documented, and nothing of anybody else', async () => {
    const ids = await live('acme', 'alice');
    await live('acme', 'bob');
    await live('globex', 'alice');
    const lines = await exported(service.url, 'acme', 'alice');
    const kinds = Map.groupBy(lines, ({ kind }) => String(kind));
    expect([...kinds.keys()].toSorted()).toEqual(
      ['notification', ...Object.keys(exportLineSchemas)].toSorted(),
    );
    for (const line of lines) {
      const { kind, ...item } = line;
      const schema = new Map(Object.entries(exportLineSchemas)).get(String(kind));
      if (schema === undefined) historyItemSchema.parse(item);
      else schema.parse(line);
    }
    const of = (kind: string) => kinds.get(kind) ?? [];
    expect(of('notification').map(({ id }) => id)).toEqual(ids.toReversed());
    for (const kind of [
      'device',
      'connection',
      'acknowledgement',
      'inbox',
      'mark',
      'ticket',
      'order',
      'revocation',
    ])
      expect([kind, of(kind).length]).toEqual([kind, 1]);
    expect(of('answer')).toMatchObject([
      { key: 'key-of-alice', publisher: 'billing', notifications: [ids[2]] },
    ]);
    expect(of('sent').length).toBeGreaterThan(0);
    expect(of('device')).toMatchObject([{ device: 'phone', topics: ['news'] }]);
    expect(of('order')).toMatchObject([{ order: 'disconnect', connectionId: null }]);
    const [acknowledged] = of('acknowledgement');
    const [newest] = of('notification');
    expect(of('inbox')).toMatchObject([
      {
        since: acknowledged?.['to'],
        seenUpTo: newest?.['position'],
        readUpTo: acknowledged?.['to'],
        archivedUpTo: '0',
      },
    ]);
    const position = newest?.['position'];
    expect(of('mark')).toMatchObject([
      { position, read: true, readAt: expect.any(String), archived: true, archivedAt: expect.any(String) },
    ]);
    const single = { of: 'one', from: String(Number(position) - 1), to: position };
    expect(of('engagement')).toMatchObject([
      { engagement: 'archived', ...single },
      { engagement: 'read', ...single },
      {
        engagement: 'seen',
        of: 'all',
        from: acknowledged?.['to'],
        to: position,
        topics: ['news'],
      },
    ]);
    expect(JSON.stringify(lines)).not.toMatch(/bob|globex|for all/);
  });

  test('takes turns with others of its tenant, with a rest between two pages, and waits for no other tenant', async () => {
    const history = service.app.get(HistoryService);
    const spans: { tenant: string; from: number; to: number }[] = [];
    const of = (tenant: string) => spans.filter((span) => span.tenant === tenant);
    const aloneGoesOn = Promise.withResolvers<void>();
    const page = jest.spyOn(history, 'page').mockImplementation(async (tenant) => {
      const from = performance.now();
      await sleep(20);
      // Who waited for the crowded ones would never get there.
      if (tenant === 'crowded') await aloneGoesOn.promise;
      else if (of('alone').length === 1) aloneGoesOn.resolve();
      spans.push({ tenant, from, to: performance.now() });
      return {
        items: [],
        next: of(tenant).length < 9 ? asPosition(1) : undefined,
      };
    });
    try {
      await Promise.all(
        ['crowded', 'crowded', 'crowded', 'alone'].map((tenant) => exported(service.url, tenant, 'x')),
      );
    } finally {
      page.mockRestore();
    }
    expect(of('crowded').length).toBeGreaterThan(9);
    for (const tenant of ['crowded', 'alone'])
      for (const [n, { from }] of of(tenant).entries()) {
        const before = of(tenant)[n - 1];
        // As long as the page took, but for what a timer is early.
        if (before !== undefined) expect(from - before.to).toBeGreaterThan(before.to - before.from - 3);
      }
  });

  test('of somebody of whom nothing is stored is empty', async () => {
    expect(await exported(service.url, 'acme', 'nobody')).toEqual([]);
    expect(await exported(service.url, 'never-seen', 'alice')).toEqual([]);
  });

  test('passes data on byte for byte', async () => {
    const data = '{"z":9223372036854775808,"a":1.0,"a":"\\u00e9\\/","e":[1e2,-0]}';
    const body = `{"to":{"user":"exact"},"type":"t","data": ${data.replace('{', '{ ')} }`;
    expect((await post(`${service.url}/v1/notifications`, serviceToken(), body)).status).toBe(201);
    const response = await fetch(`${service.url}/v1/users/exact/data`, {
      headers: { authorization: `Bearer ${readerOf('acme')}` },
    });
    expect(response.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8');
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(await response.text()).toContain(`,"data":${data},`);
  });

  test('has everything once when it is larger than a page of any kind', async () => {
    const tenant = 'large';
    const { position } = await publish(service.url, serviceToken({ tenant }), {
      to: { user: 'x' },
      type: 't',
      data: 1,
    });
    const base = Number(position) - 1_000_000;
    const rows = 2_500;
    const columns = {
      notification: `notifications (tenant_id, user_id, position, id, type, data, size, publisher)
        select $1, $2, ${base} + n, gen_random_uuid(), 't', n::text, 4, 'p'`,
      device: `devices (tenant_id, user_id, device_id, cursor) select $1, $2, 'd' || n, n`,
      sent: `sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
        select $1, $2, 'd' || n % 7, gen_random_uuid(), ${base} + n - 1, ${base} + n, n % 5, now(), false`,
      acknowledgement: `acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume)
        select $1, $2, 'd' || n % 7, ${base} + n - 1, ${base} + n, 0, false`,
      mark: `inbox_marks (tenant_id, user_id, position, read, read_revision) select $1, $2, ${base} + n, n % 2 = 0, 1`,
      engagement: `engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class)
        select $1, $2, (array['seen', 'read', 'archived'])[n % 3 + 1], n % 2 = 0, ${base} + n - 1, ${base} + n, 0`,
      connection: `connections (tenant_id, user_id, connection_id, device_id, node, since, until, position)
        select $1, $2, gen_random_uuid(), 'd', 'n', now() - n / 10 * interval '1 s', now(), n`,
    };
    for (const [kind, rest] of Object.entries(columns)) {
      const user = `of ${kind}`;
      await service.database.query(`insert into ${rest} from generate_series(1, ${rows}) n`, [tenant, user]);
      await service.database.query('analyze');
      const lines = await exported(service.url, tenant, user);
      expect(new Set(lines.map((line) => line['kind']))).toEqual(new Set([kind]));
      expect([kind, lines.length]).toEqual([kind, rows]);
      expect([kind, new Set(lines.map((line) => JSON.stringify(line))).size]).toEqual([kind, rows]);
    }
  });

  test('that fails half-way breaks off, and one that fails at once is a problem', async () => {
    const tenant = 'breaking';
    await publish(service.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: 1 });
    const token = readerOf(tenant);
    await service.database.query('alter table devices rename to devices_away');
    try {
      const broken = await get(`${service.url}/v1/users/alice/data`, token).catch((error: unknown) => error);
      expect(broken).toMatchObject({ status: 500, body: { code: 'internal' } });
    } finally {
      await service.database.query('alter table devices_away rename to devices');
    }
    await service.database.query('alter table revocations rename to revocations_away');
    try {
      const response = await fetch(`${service.url}/v1/users/alice/data`, {
        headers: { authorization: `Bearer ${token}` },
      });
      expect(response.status).toBe(200);
      await expect(response.text()).rejects.toThrow('terminated');
    } finally {
      await service.database.query('alter table revocations_away rename to revocations');
    }
  });

  test.each(['%00', encodeURIComponent('x'.repeat(257))])('has no owner that is %s', async (id) => {
    const answer = await get(`${service.url}/v1/users/${id}/data`, readerOf('acme'));
    expect(answer).toMatchObject({ status: 404, body: { code: 'not_found' } });
    const query = await get(`${service.url}/v1/users/alice/data?limit=1`, readerOf('acme'));
    expect(query).toMatchObject({ status: 400, body: { code: 'validation_failed' } });
  });
});
