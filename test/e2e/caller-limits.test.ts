import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { call } from '../support/admin.ts';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/* What one caller asks for, and what that is to the others of its tenant. */

let service: Service;
beforeAll(async () => {
  service = await startService({ MAX_CONNECTIONS_PER_USER: '10' });
});
afterAll(async () => {
  await service.close();
});

const streams: StreamClient[] = [];
afterEach(async () => {
  await Promise.all(streams.splice(0).map((stream) => stream.cut()));
});

async function openStream(user: string): Promise<{ readonly connectionId: string; readonly head: string }> {
  const stream = await StreamClient.open(service.url, userToken({ user }));
  streams.push(stream);
  const { connectionId, head } = await stream.untilEvent('sync');
  return { connectionId: String(connectionId), head: String(head) };
}

describe('publishing', () => {
  test('goes on while everything that users of the tenant ask for waits for the database', async () => {
    const alice = userToken({ user: 'alice' });
    const { connectionId } = await openStream('alice');
    const { position } = await publish(service.url, serviceToken(), {
      to: { user: 'alice' },
      type: 't',
      data: 1,
    });
    const holder = new pg.Client({ connectionString: service.database.url });
    await holder.connect();
    try {
      await holder.query(
        'begin; lock table stream_tickets, stream_commands, devices in access exclusive mode',
      );
      const asked = [
        ...Array.from({ length: 20 }, () => post(`${service.url}/v1/stream/tickets`, alice, {})),
        ...Array.from({ length: 20 }, () => post(`${service.url}/v1/acks`, alice, { upTo: position })),
        ...Array.from({ length: 20 }, () =>
          post(`${service.url}/v1/stream/renewals`, alice, { connectionId, token: alice }),
        ),
      ];
      // A tenant has half of the connections of a pool.
      await eventually(async () => {
        const waiting = await service.database.query(
          `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database() and application_name like 'tidings %'`,
        );
        expect(waiting.length).toBeGreaterThanOrEqual(2);
      });
      for (let i = 0; i < 10; i += 1)
        await publish(service.url, serviceToken(), { to: { user: 'bob' }, type: 't', data: i });
      await holder.query('rollback');
      const statuses = new Set((await Promise.all(asked)).map(({ status }) => status));
      expect(statuses).toEqual(new Set([201, 202, 204]));
    } finally {
      await holder.end();
    }
  });
});

describe('one user', () => {
  // By hand, for each has a budget of its own. `POST /v1/session` has none: it asks the database for nothing.
  const bodies: Record<string, (token: string, connectionId: string) => object> = {
    '/v1/stream/tickets': () => ({}),
    '/v1/stream/renewals': (token, connectionId) => ({ connectionId, token }),
    '/v1/acks': () => ({ upTo: '1' }),
    '/v1/inbox/marks': () => ({ seenUpTo: '1' }),
  };

  test.each([
    ['/v1/stream/tickets', { atOnce: 20, perSecond: 5 }],
    ['/v1/stream/renewals', { atOnce: 20, perSecond: 5 }],
    ['/v1/acks', { atOnce: 200, perSecond: 20 }],
    ['/v1/inbox/marks', { atOnce: 200, perSecond: 20 }],
  ])(
    'who asks for %s without end is told to wait, and whoever else is in the tenant is served',
    async (path, { atOnce, perSecond }) => {
      const users = { mallory: userToken({ user: 'mallory' }), carol: userToken({ user: 'carol' }) };
      await publish(service.url, serviceToken(), { to: { everyone: true }, type: 't', data: 1 });
      const ask = async (user: keyof typeof users, connectionId: string) => {
        const token = users[user];
        const body = bodies[path]?.(token, connectionId);
        return await post<{ code?: string }>(`${service.url}${path}`, token, body);
      };
      const [of, carols] = [await openStream('mallory'), await openStream('carol')];
      const began = performance.now();
      const answers: Awaited<ReturnType<typeof ask>>[] = [];
      // On a machine that takes long for them, there is more to have meanwhile.
      while (!answers.some(({ status }) => status === 429)) {
        const asked = Array.from({ length: 4 * atOnce }, () => ask('mallory', of.connectionId));
        answers.push(...(await Promise.all(asked)));
      }
      const seconds = (performance.now() - began) / 1_000;
      const refused = answers.filter(({ status }) => status === 429);
      expect(new Set(refused.map(({ body }) => body.code))).toEqual(new Set(['too_many_requests']));
      for (const { headers } of refused) expect(headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
      const served = answers.length - refused.length;
      expect(served).toBeGreaterThanOrEqual(atOnce);
      expect(served).toBeLessThanOrEqual(atOnce + perSecond * seconds + 1);
      expect((await ask('carol', carols.connectionId)).status).toBeLessThan(300);
    },
  );
});

describe('the administrators of one tenant', () => {
  const NOBODY = '00000000-0000-4000-8000-000000000000';

  // None of these can be done; they are paid all the same.
  test.each([
    ['revocations', 'POST', '/v1/revocations', { nothing: 'known' }],
    ['disconnects', 'POST', '/v1/users/alice/disconnect', { nothing: 'known' }],
    ['closes', 'DELETE', `/v1/connections/${NOBODY}`, undefined],
    ['erasures', 'DELETE', '/v1/users/data', undefined],
  ])(
    'who ask for %s without end are told to wait, and those of another are served',
    async (what, method, path, body) => {
      const ask = (tenant: string, client: string) =>
        call<{ code: string }>(
          method,
          `${service.url}${path}`,
          serviceToken({ tenant, client, scope: 'operations:write' }),
          body,
        );
      const began = performance.now();
      const answers: Awaited<ReturnType<typeof ask>>[] = [];
      while (!answers.some(({ status }) => status === 429)) {
        const asked = Array.from({ length: 200 }, (_, n) => ask(what, n % 2 === 0 ? 'one' : 'other'));
        answers.push(...(await Promise.all(asked)));
      }
      const seconds = (performance.now() - began) / 1_000;
      const refused = answers.filter(({ status }) => status === 429);
      expect(new Set(refused.map(({ body: { code } }) => code))).toEqual(new Set(['too_many_requests']));
      const served = answers.length - refused.length;
      expect(served).toBeGreaterThanOrEqual(500);
      expect(served).toBeLessThanOrEqual(500 + 20 * seconds + 1);
      expect((await ask('another', 'one')).status).not.toBe(429);
    },
  );
});
