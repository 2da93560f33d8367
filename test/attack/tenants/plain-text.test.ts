import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { get, post, publish, type StoredAnswer } from '../../support/api.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { goodRequest } from './attempt.ts';
import { callersOf } from './callers.ts';
import { ofUsers, operationsOf, type DocumentedOperation, type OperationKey } from '../document.ts';
import { HOSTILE_TEXTS, IMPOSSIBLE_TEXTS } from './payloads.ts';
import { ask } from './request.ts';
import { setStage, visit, type Stage } from './stage.ts';
import { TABLE } from './table.ts';

/* What a text says to a database is nothing to it where it is the name of somebody: it is found by all of itself alone. */

let stage: Stage;
let documented: Map<OperationKey, DocumentedOperation>;
beforeAll(async () => {
  stage = await setStage();
  documented = await operationsOf(stage.node.url);
});
afterAll(() => stage.close());

interface Item {
  readonly id: string;
  readonly publisher: string;
  readonly data: unknown;
}

describe.each(HOSTILE_TEXTS)('%j', (text) => {
  /** All that history finds. */
  const found = async (filter: Record<string, string>) => {
    const query = new URLSearchParams(filter).toString();
    const url = `${stage.node.url}/v1/notifications?${query}`;
    return (await get<{ items: Item[] }>(url, stage.acme.operator)).body.items;
  };

  test('is a user, a topic and a publisher like any other', async () => {
    const { node, acme, globex } = stage;
    const publisher = serviceToken({ tenant: 'acme', client: text, scope: 'notifications:publish' });
    const ids: string[] = [];
    for (const to of [{ user: text }, { topic: text }]) {
      await publish(node.url, globex.billing, { to, type: 'note', data: 'of globex' });
      await publish(node.url, acme.billing, { to: { user: `${text}+` }, type: 'note', data: 'of another' });
      const { id } = await publish(node.url, publisher, { to, type: 'note', data: text });
      ids.push(id);
      expect(await found(to)).toMatchObject([{ id, to, data: text, publisher: text }]);
      expect((await get(`${node.url}/v1/notifications/${id}`, publisher)).status).toBe(200);
    }
    const reader = acme.user(text, { topics: [text] });
    const stream = await StreamClient.open(node.url, reader, { query: { from: 'earliest' } });
    await stream.untilEvent('caught-up');
    await stream.cut();
    const own = stream.notifications.filter(({ to }) => !('everyone' in to));
    expect(own.map(({ id, data }) => [id, data])).toEqual(ids.map((id) => [id, text]));
  });

  test('is a key like any other, or none', async () => {
    const { node, acme } = stage;
    const body = { to: { user: 'keyed' }, type: 'note', data: 1 };
    const send = (key: string) =>
      post<StoredAnswer>(`${node.url}/v1/notifications`, acme.billing, body, { 'idempotency-key': key });
    if (!/^[\x21-\x7e]+$/.test(text)) {
      expect((await send(Buffer.from(text).toString('latin1'))).status).toBe(400);
      return;
    }
    const [first, again, other] = [await send(text), await send(text), await send(`${text}+`)];
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(again.body.id).toBe(first.body.id);
    expect(other.body.id).not.toBe(first.body.id);
  });

  test('is revoked as a token and as a user, and no other is', async () => {
    const { node, acme, globex } = stage;
    const statusOf = async (token: string) => (await post(`${node.url}/v1/stream/tickets`, token, {})).status;
    const revoke = async (body: object) =>
      expect((await post(`${node.url}/v1/revocations`, acme.operator, body)).status).toBe(201);
    const tokenOf = (user: string, jti: string, tenant = acme) => tenant.user(user, { claims: { jti } });
    await revoke({ token: { jti: text } });
    expect(await statusOf(tokenOf('alice', text))).toBe(401);
    expect(await statusOf(tokenOf('alice', `${text}+`))).toBe(201);
    await revoke({ user: text });
    expect(await statusOf(acme.user(text, { claims: { iat: Math.floor(Date.now() / 1000) - 60 } }))).toBe(
      401,
    );
    expect(await statusOf(acme.user(`${text}+`))).toBe(201);
    expect(await statusOf(tokenOf(text, text, globex))).toBe(201);
  });
});

/** Some of the operations at which the token of a service with every right in its tenant gets to the database. */
const OF_SERVICES: readonly OperationKey[] = [
  'POST /v1/notifications',
  'GET /v1/notifications',
  'GET /v1/audit',
  'POST /v1/users/{id}/disconnect',
];

test.each(['sub', 'tenant_id', 'topics', 'device', 'jti', 'iss', 'aud', 'scope', 'iat', 'exp'])(
  'hostile text in the claim %s is refused or taken for plain text',
  async (claim) => {
    const before = await stage.rows.look();
    const scope = 'notifications:publish history:read operations:write';
    const asking = [...HOSTILE_TEXTS, ...IMPOSSIBLE_TEXTS].flatMap((text) => {
      const claims = { jti: `jti-${claim}`, [claim]: claim === 'topics' ? [text] : text };
      return [
        ...ofUsers(documented).map((operation) => ({
          operation,
          token: userToken({ user: 'hostile', claims }),
        })),
        ...OF_SERVICES.map((operation) => ({ operation, token: serviceToken({ scope, claims }) })),
      ];
    });
    const answers = await Promise.all(
      asking.map(async ({ operation, token }) => {
        const request = goodRequest(TABLE, operation, stage, token);
        return { operation, ...(await ask(stage.node.url, operation, token, request)) };
      }),
    );
    for (const { operation, status, body } of answers) {
      expect(documented.get(operation)?.statuses.filter((each) => each < 500)).toContain(status);
      for (const name of ['of globex', stage.globex.only]) expect(JSON.stringify(body)).not.toContain(name);
    }
    const { gone, come } = await stage.rows.since(before);
    expect([...gone, ...come].filter(({ tenant }) => tenant === 'globex')).toEqual([]);
  },
);

test('a token id of any characters serves for tickets and renewals', async () => {
  const { node } = stage;
  const { user } = callersOf('renewing');
  for (const jti of [...HOSTILE_TEXTS, '\u0000', `a\u0000'`]) {
    const token = user('alice', { claims: { jti } });
    const { body } = await post<{ ticket: string }>(`${node.url}/v1/stream/tickets`, token, {});
    await visit(node, undefined, { ticket: body.ticket });
    const stream = await StreamClient.open(node.url, token);
    const { connectionId } = await stream.untilEvent('sync');
    const renewal = { connectionId, token: user('alice', { topics: ['more'], claims: { jti } }) };
    expect((await post(`${node.url}/v1/stream/renewals`, token, renewal)).status).toBe(202);
    await stream.cut();
  }
});
