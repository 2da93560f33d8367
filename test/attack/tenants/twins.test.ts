import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { get, post, type StoredAnswer } from '../../support/api.ts';
import { eventually } from '../../support/eventually.ts';
import type { StreamClient } from '../../support/stream-client.ts';
import { setStage, type Stage } from './stage.ts';
import { JTI, twins, type Twin } from './twins.ts';

/* Two tenants at the same time in the memory of the same nodes, with the same names for everything. */

let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
});
afterAll(() => stage.close());

const dataOf = (stream: StreamClient) => stream.notifications.map(({ data }) => data);

/** What is done in one tenant reaches its streams within a second, and then it has reached whatever it reaches. */
const expectUntouched = async (twin: Twin, stream: StreamClient) => {
  const had = stream.notifications.length;
  await twin.publish({ user: 'alice' }, 'still there');
  await stream.untilNotifications(had + 1);
  expect(dataOf(stream).slice(had)).toEqual(['still there']);
  expect(stream.named('bye')).toEqual([]);
};

describe.each([
  ['that a node does itself', 'node'],
  ['that another node does', 'otherNode'],
] as const)('of what happens in one tenant, %s, nothing happens in the other:', (_, acting) => {
  let left: Twin;
  let right: Twin;
  beforeEach(() => {
    [left, right] = twins(stage, acting);
  });

  test('a user, a topic and everyone are those of the publisher', async () => {
    const [live, foreign] = [await left.open(), await right.open()];
    for (const to of [{ user: 'alice' }, { topic: 'news' }, { everyone: true }]) await left.publish(to, to);
    await right.publish({ user: 'alice' }, 'of the right');
    await live.untilNotifications(3);
    await foreign.untilNotifications(1);
    expect(dataOf(live)).toEqual([{ user: 'alice' }, { topic: 'news' }, { everyone: true }]);
    expect(dataOf(foreign)).toEqual(['of the right']);
    await Promise.all([live.cut(), foreign.cut()]);
    expect(await right.read({ from: 'earliest' })).toEqual(['of the right']);
    expect(await left.read({ from: 'earliest' })).toHaveLength(3);
  });

  test('a confirmation', async () => {
    const url = stage[acting].url;
    await Promise.all([left.read(), right.read()]);
    const first = await left.publish({ user: 'alice' }, 1);
    await right.publish({ user: 'alice' }, 'one');
    expect((await post(`${url}/v1/acks`, left.token, { upTo: first.position })).status).toBe(204);
    expect(await right.read()).toEqual(['one']);
    expect(await left.read()).toEqual([]);
    // A new device goes on where those of its user have got to, wherever those of the other user are.
    await left.publish({ user: 'alice' }, 2);
    const { position } = await right.publish({ user: 'alice' }, 'two');
    expect((await post(`${url}/v1/acks`, right.token, { upTo: position })).status).toBe(204);
    expect(await left.read({ device: 'new' }, left.user('alice'))).toEqual([2]);
  });

  test('a key, at the same moment', async () => {
    const body = { to: { user: 'alice' }, type: 'note', data: 1 };
    const headers = { 'idempotency-key': 'k' };
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (__, i) => {
        const { id, billing } = i % 2 === 0 ? left : right;
        const url = stage[i % 4 < 2 ? 'node' : acting].url;
        const answer = await post<StoredAnswer>(`${url}/v1/notifications`, billing, body, headers);
        return { tenant: id, ...answer };
      }),
    );
    const stored = await stage.database.query<{ tenant: string; id: string }>(
      `select tenant_id as tenant, id from notifications where tenant_id in ($1, $2)`,
      [left.id, right.id],
    );
    expect(stored.map(({ tenant }) => tenant).toSorted()).toEqual([left.id, right.id]);
    for (const { tenant, status, body: answered } of answers)
      expect({ tenant, status, id: answered.id }).toEqual({
        tenant,
        status: 201,
        id: stored.find((row) => row.tenant === tenant)?.id,
      });
  });

  test('a key with another body, at the same moment', async () => {
    const url = stage[acting].url;
    const headers = { 'idempotency-key': 'k' };
    const answers = await Promise.all(
      [left, right].map(({ billing }, data) =>
        post(`${url}/v1/notifications`, billing, { to: { everyone: true }, type: 'note', data }, headers),
      ),
    );
    expect(answers.map(({ status }) => status)).toEqual([201, 201]);
  });

  test('a crowd that reads and confirms, at the same moment', async () => {
    const crowd = Array.from({ length: 20 }, (__, i) => {
      const twin = i % 2 === 0 ? left : right;
      const user = `u-${Math.floor(i / 2)}`;
      return { twin, user, token: twin.user(user), data: `${twin.id} ${user}` };
    });
    await Promise.all(crowd.map(({ twin, user, data }) => twin.publish({ user }, data)));
    const read = () => Promise.all(crowd.map(({ twin, token }) => twin.read({}, token)));
    expect(await read()).toEqual(crowd.map(({ data }) => [data]));
    const heads = await Promise.all(crowd.map(({ twin }) => twin.publish({ user: 'nobody' }, 'the head')));
    const confirmed = await Promise.all(
      crowd.map(({ token }, i) => post(`${stage[acting].url}/v1/acks`, token, { upTo: heads[i]?.position })),
    );
    expect(confirmed.map(({ status }) => status)).toEqual(crowd.map(() => 204));
    expect(await read()).toEqual(crowd.map(() => []));
  });

  test.each<[string, (stream: StreamClient) => Promise<{ status: number }>]>([
    ['a token is revoked', () => left.act('POST', '/v1/revocations', { token: { jti: JTI } })],
    ['a user is revoked', () => left.act('POST', '/v1/revocations', { user: 'alice' })],
    ['a user is disconnected', () => left.act('POST', '/v1/users/alice/disconnect')],
    [
      'a stream is closed',
      async (stream) => {
        const { connectionId } = await stream.untilEvent('sync');
        return await eventually(async () => {
          const answer = await left.act('DELETE', `/v1/connections/${String(connectionId)}`);
          expect(answer.status).toBe(204);
          return answer;
        });
      },
    ],
    ['a tenant is suspended', () => left.act('PATCH', `/v1/tenants/${left.id}`, { status: 'suspended' })],
  ])('%s', async (__, act) => {
    const [own, foreign] = [await left.open(), await right.open()];
    expect((await act(own)).status).toBeLessThan(300);
    expect((await own.untilEvent('bye'))['reason']).toBe('revoked');
    await expectUntouched(right, foreign);
    await foreign.cut();
    expect(await right.read()).toEqual(['still there']);
    expect((await get(`${stage[acting].url}/v1/notifications`, right.operator)).status).toBe(200);
  });

  test('a renewal', async () => {
    const [own, foreign] = [await left.open(), await right.open()];
    const { connectionId } = await own.untilEvent('sync');
    const token = left.user('alice', { topics: ['gained'] });
    const body = { connectionId, token };
    await eventually(async () =>
      expect((await post(`${stage[acting].url}/v1/stream/renewals`, left.token, body)).status).toBe(202),
    );
    await eventually(async () => {
      await left.publish({ topic: 'gained' }, 'gained');
      expect(dataOf(own)).toContain('gained');
    });
    await right.publish({ topic: 'gained' }, 'gained');
    await expectUntouched(right, foreign);
    // The record that the renewal ended is that of a stream which is over, though alice of the other tenant has one.
    await own.cut();
    await eventually(async () =>
      expect((await left.act('GET', '/v1/connections')).body).toMatchObject({ items: [] }),
    );
    const again = await right.open();
    await eventually(async () =>
      expect((await right.act('GET', '/v1/connections')).body).toMatchObject({ items: [{}, {}] }),
    );
    expect((await left.act('DELETE', `/v1/connections/${String(connectionId)}`)).status).toBe(404);
    await Promise.all([foreign.cut(), again.cut()]);
  });

  test('what history counts', async () => {
    const url = stage[acting].url;
    const streams = [
      await left.open(),
      await right.open(),
      await right.open({ device: 'tablet' }, right.user('alice', { topics: ['news'] })),
      await right.open({}, right.user('bob', { topics: ['news'] })),
    ];
    for (const to of [{ everyone: true }, { topic: 'news' }]) {
      const few = await left.publish(to, 'left');
      const many = await right.publish(to, 'right');
      await post(`${url}/v1/acks`, right.token, { upTo: many.position });
      const counted = async (twin: Twin, id: string) =>
        (await twin.act('GET', `/v1/notifications/${id}`)).body['counts'];
      await eventually(async () =>
        expect(await counted(right, many.id)).toEqual({ sent: 3, delivered: 1, read: 0, more: false }),
      );
      await eventually(async () =>
        expect(await counted(left, few.id)).toEqual({ sent: 1, delivered: 0, read: 0, more: false }),
      );
      const { body } = await left.act('GET', `/v1/notifications/${few.id}/devices`);
      expect(body).toMatchObject({ items: [{ user: 'alice', device: 'phone' }] });
    }
    expect((await left.act('GET', '/v1/connections')).body).toMatchObject({ items: [{ user: 'alice' }] });
    await Promise.all(streams.map((stream) => stream.cut()));
  });

  test('a ticket', async () => {
    await left.publish({ user: 'alice' }, 'left');
    await right.publish({ user: 'alice' }, 'right');
    for (const [twin, data] of [
      [left, 'left'],
      [right, 'right'],
    ] as const) {
      const { body } = await post<{ ticket: string }>(
        `${stage[acting].url}/v1/stream/tickets`,
        twin.token,
        {},
      );
      const stream = await twin.open({ ticket: body.ticket }, twin.token);
      expect(dataOf(stream)).toEqual([data]);
      await stream.cut();
    }
  });
});

test('an answer that was given to a key in one tenant is not given in another, not even where the request is refused', async () => {
  const [left, right] = twins(stage, 'node');
  const body = { to: { user: 'alice' }, type: 'note', data: 'x'.repeat(5_000) };
  const send = ({ billing }: Twin, node: 'node' | 'otherNode') =>
    post(`${stage[node].url}/v1/notifications`, billing, body, { 'idempotency-key': 'k' });
  expect((await send(right, 'node')).status).toBe(201);
  // This node takes less than the first one.
  expect((await send(right, 'otherNode')).headers.get('idempotency-replayed')).toBe('true');
  expect(await send(left, 'otherNode')).toMatchObject({ status: 400, body: { code: 'validation_failed' } });
});
