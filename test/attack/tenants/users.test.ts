import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { SESSION_COOKIE } from '../../../src/auth/credentials.ts';
import { post, type StoredAnswer } from '../../support/api.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { setStage, untilRecorded, type Stage } from './stage.ts';
import { twins, type Twin } from './twins.ts';

/* Mallory against Alice, in the same tenant, through the node that has Alice's streams and through another. */

let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
});
afterAll(() => stage.close());

const ALICE = 'alice';

describe.each(['node', 'otherNode'] as const)('through the %s, of what is of another user', (through) => {
  let twin: Twin;
  let url: string;
  let alice: string;
  let mallory: string;
  let first: StoredAnswer;

  beforeEach(async () => {
    [twin] = twins(stage, 'node');
    url = stage[through].url;
    alice = twin.user(ALICE, { topics: ['hers'] });
    mallory = twin.user('mallory', { topics: ['his'] });
    await twin.read({ device: 'phone' }, alice);
    first = await twin.publish({ user: ALICE }, 'for alice');
    await twin.publish({ topic: 'hers' }, 'for her topic');
    await twin.publish({ user: 'mallory' }, 'for mallory');
  });

  /** What Mallory's stream holds when it has caught up. */
  async function readAs(token: string | undefined, query: Record<string, string>, headers = {}) {
    const stream = await StreamClient.open(url, token, { query, headers });
    expect(stream.status).toBe(200);
    const { connectionId } = await stream.untilEvent('sync');
    await stream.untilEvent('caught-up');
    await stream.cut();
    await untilRecorded(stage.database, connectionId);
    return stream.notifications.map(({ data }) => data);
  }

  const expectAliceHasAll = async () =>
    expect(await readAs(alice, { device: 'phone' })).toEqual(['for alice', 'for her topic']);

  test('a stream shows nothing, whatever position and device it names', async () => {
    const before = String(Number(first.position) - 1);
    for (const query of [
      { device: 'phone' },
      { device: 'phone', lastEventId: before },
      { device: 'phone', from: 'earliest' },
    ])
      expect(await readAs(mallory, query)).toEqual(['for mallory']);
    expect(await readAs(mallory, {}, { 'last-event-id': before })).toEqual(['for mallory']);
    // A resume of his has confirmed nothing of hers.
    expect(await readAs(mallory, { device: 'phone', lastEventId: first.position })).toEqual(['for mallory']);
    await expectAliceHasAll();
  });

  test.each(['user', 'users', 'topics', 'topic', 'sub', 'tenant'])(
    'a stream cannot name it in the query parameter %s',
    async (name) => {
      expect(await readAs(mallory, { [name]: ALICE, device: `says-${name}` })).toEqual(['for mallory']);
    },
  );

  test('a confirmation of a device of the same name confirms nothing', async () => {
    await readAs(mallory, { device: 'phone' });
    const head = await twin.publish({ user: 'nobody' }, 'the head');
    const answer = await post(`${url}/v1/acks`, mallory, { device: 'phone', upTo: head.position });
    expect(answer.status).toBe(204);
    expect(await readAs(mallory, { device: 'phone' })).toEqual([]);
    await expectAliceHasAll();
    expect((await twin.act('GET', `/v1/notifications/${first.id}`)).body).toMatchObject({ status: 'sent' });
  });

  const ticketOf = async (token: string) =>
    (await post<{ ticket: string }>(`${url}/v1/stream/tickets`, token, {})).body.ticket;

  test('a ticket opens nothing beside his own token or cookie', async () => {
    for (const own of [
      { authorization: `Bearer ${mallory}` },
      { cookie: `${SESSION_COOKIE}=${mallory}`, 'sec-fetch-site': 'same-origin' },
    ]) {
      const before = await stage.rows.look();
      const ticket = await ticketOf(alice);
      const stream = await StreamClient.open(url, undefined, { query: { ticket }, headers: own });
      await stream.closed;
      expect([stream.status, JSON.parse(stream.raw)]).toMatchObject([401, { code: 'credentials_conflict' }]);
      expect(await stage.rows.since(before)).toEqual({ gone: [], come: [] });
    }
  });

  test('a ticket is of no use once she has used it, nor in the name of his device', async () => {
    const ticket = await ticketOf(alice);
    expect(await readAs(undefined, { ticket, device: 'his' })).toEqual(['for alice', 'for her topic']);
    const stream = await StreamClient.open(url, undefined, { query: { ticket } });
    await stream.closed;
    expect(stream.status).toBe(401);
  });

  test('a stream cannot be renewed, not even with a token that names her device', async () => {
    const hers = await StreamClient.open(stage.node.url, alice, { query: { device: 'phone' } });
    const { connectionId } = await hers.untilEvent('sync');
    await hers.untilNotifications(2);
    const token = twin.user('mallory', { topics: ['hers'], device: 'phone' });
    for (const [by, body, code] of [
      [mallory, { connectionId, token }, 'not_found'],
      [mallory, { connectionId, token: alice }, 'subject_mismatch'],
      [alice, { connectionId, token }, 'subject_mismatch'],
    ] as const)
      expect((await post(`${url}/v1/stream/renewals`, by, body)).body).toMatchObject({ code });
    // Her topics are what they were.
    await twin.publish({ topic: 'hers' }, 'still hers');
    await hers.untilNotifications(3);
    await hers.cut();
  });
});
