import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import {
  closeConnection,
  deleteIssuer,
  disconnect,
  patchIssuer,
  registerIssuer,
  revokeToken,
  revokeUser,
  setTenant,
} from '../support/acts.ts';
import { get, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { TestClock } from '../support/test-clock.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const FORGIVEN_MS = 60_000;
const ISSUERS = {
  ISSUER_SECRETS_KEY: 'the key that seals the secrets of issuers',
  JWT_CLOCK_TOLERANCE_SECONDS: String(FORGIVEN_MS / 1_000),
};
const SECRET = 'a secret of a registered issuer, longer than 32 bytes';

let here: Service;
let there: Service;
const streams: StreamClient[] = [];

beforeAll(async () => {
  here = await startService(ISSUERS);
  there = await startService({ ...ISSUERS, NODE_NAME: 'there' }, { database: here.database });
});
afterEach(async () => {
  await Promise.all(streams.splice(0).map((stream) => stream.cut()));
});
afterAll(async () => {
  await there.close();
  await here.close();
});

async function open(
  service: Service,
  token: string,
  query: Record<string, string> = {},
): Promise<StreamClient> {
  const stream = await StreamClient.open(service.url, token, { query });
  streams.push(stream);
  return stream;
}

async function openLive(service: Service, token: string): Promise<StreamClient> {
  const stream = await open(service, token);
  await stream.untilEvent('caught-up');
  return stream;
}

const connectionOf = (stream: StreamClient): string => String(stream.named('sync')[0]?.['connectionId']);

const REVOKED = [{ reason: 'revoked', reconnect: false, retryAfterMs: expect.any(Number) }];

async function expectRevoked(stream: StreamClient): Promise<void> {
  await stream.closed;
  expect(stream.named('bye')).toEqual(REVOKED);
  expect(stream.events.at(-1)?.event).toBe('bye');
}

/** That these are open and get what is published now. */
async function expectAlive(tenant: string, alive: readonly StreamClient[]): Promise<void> {
  const { id } = await publish(here.url, serviceToken({ tenant, client: 'prober' }), {
    to: { everyone: true },
    type: 't',
    data: 'alive',
  });
  for (const stream of alive)
    await stream.until(
      () => stream.notifications.some((notification) => notification.id === id),
      'what is new',
    );
}

const ask = ({ url }: Service, token: string) => get(`${url}/v1/notifications?limit=1`, token);

/** Two callers who are about to be refused, two who are not, and what makes the difference. */
interface Case {
  readonly user: string;
  readonly operator: string;
  readonly others: { readonly tenant: string; readonly user: string; readonly operator: string };
  readonly act: () => Promise<unknown>;
  readonly answer: { readonly status: number; readonly body: { readonly code: string } };
}

const SCOPE = 'history:read';
const refused = { status: 401, body: { code: 'token_invalid' } };

let cases = 0;

/** Tokens of one issuer that was registered for one case. */
async function ofNewIssuer(tenants: string[]) {
  cases += 1;
  const iss = `https://idp-${cases}.example/`;
  const id = await registerIssuer(here, { iss, secret: SECRET, audiences: ['tidings'], tenants });
  await there.app.get(ChangeFeed).now();
  const at = (ageSeconds: number) => ({ iss, iat: Math.floor(Date.now() / 1_000) - ageSeconds });
  return {
    id,
    user: (tenant: string, user: string, age = 60) =>
      userToken({ tenant, user, secret: SECRET, claims: at(age) }),
    operator: (tenant: string, client: string, age = 60) =>
      serviceToken({ tenant, client, scope: SCOPE, secret: SECRET, claims: at(age) }),
  };
}

async function caseOfIssuer(name: string, patch: object | 'delete'): Promise<Case> {
  const theirs = await ofNewIssuer([name]);
  return {
    user: theirs.user(name, 'alice'),
    operator: theirs.operator(name, 'ops'),
    others: {
      tenant: name,
      user: userToken({ tenant: name }),
      operator: serviceToken({ tenant: name, client: 'ops', scope: SCOPE }),
    },
    act: () => (patch === 'delete' ? deleteIssuer(here, theirs.id) : patchIssuer(here, theirs.id, patch)),
    answer: refused,
  };
}

const ofOthers = (tenant: string) => ({
  tenant,
  user: userToken({ tenant, user: 'bob', claims: { jti: 'bob-1' } }),
  operator: serviceToken({ tenant, client: 'bob', scope: SCOPE, claims: { jti: 'bob-2' } }),
});

const CASES: Record<string, () => Promise<Case>> = {
  'their tokens are': async () => ({
    user: userToken({ tenant: 'by-jti', claims: { jti: 'j-1' } }),
    operator: serviceToken({ tenant: 'by-jti', scope: SCOPE, claims: { jti: 'j-2' } }),
    others: ofOthers('by-jti'),
    act: async () => {
      await revokeToken(here, 'by-jti', 'j-1');
      await revokeToken(here, 'by-jti', 'j-2');
    },
    answer: refused,
  }),
  'they are, with all that was issued to them before': async () => {
    const tenant = 'by-user';
    const now = Date.now();
    const at = (age: number) => ({ iat: Math.floor(now / 1_000) - age });
    return {
      user: userToken({ tenant, claims: at(60) }),
      operator: serviceToken({ tenant, client: 'alice', scope: SCOPE, claims: { iat: undefined } }),
      // The same user, who has logged in again since.
      others: {
        tenant,
        user: userToken({ tenant, claims: at(10) }),
        operator: serviceToken({ tenant, client: 'alice', scope: SCOPE, claims: at(10) }),
      },
      act: () => revokeUser(here, tenant, 'alice', new Date(now - 30_000)),
      answer: refused,
    };
  },
  'their issuer is disabled': () => caseOfIssuer('issuer-disabled', { status: 'disabled' }),
  'their issuer is deleted': () => caseOfIssuer('issuer-deleted', 'delete'),
  'what their issuer issued until then is revoked': async () => {
    const tenant = 'issuer-revoked';
    const theirs = await ofNewIssuer([tenant]);
    const revokedBefore = new Date(Date.now() - 30_000).toISOString();
    return {
      user: theirs.user(tenant, 'alice'),
      operator: theirs.operator(tenant, 'ops'),
      others: {
        tenant,
        user: theirs.user(tenant, 'alice', 10),
        operator: theirs.operator(tenant, 'ops', 10),
      },
      act: () => patchIssuer(here, theirs.id, { revokedBefore }),
      answer: refused,
    };
  },
  'their issuer may no longer speak for their tenant': async () => {
    const theirs = await ofNewIssuer(['shrunk', 'kept']);
    return {
      user: theirs.user('shrunk', 'alice'),
      operator: theirs.operator('shrunk', 'ops'),
      others: {
        tenant: 'kept',
        user: theirs.user('kept', 'alice'),
        operator: theirs.operator('kept', 'ops'),
      },
      act: () => patchIssuer(here, theirs.id, { tenants: ['kept'] }),
      answer: refused,
    };
  },
  'their tenant is suspended': async () => ({
    user: userToken({ tenant: 'suspended' }),
    operator: serviceToken({ tenant: 'suspended', scope: SCOPE }),
    others: ofOthers('suspended2'),
    act: () => setTenant(here, 'suspended', { status: 'suspended' }),
    answer: { status: 403, body: { code: 'tenant_suspended' } },
  }),
};

describe('callers are refused and their streams end, at once on the node that was told and elsewhere with its next look, when', () => {
  test.each(Object.entries(CASES))('%s', async (_, make) => {
    const { user, operator, others, act, answer } = await make();
    const both = [here, there];
    const ending = await Promise.all(both.map((service) => openLive(service, user)));
    const staying = await Promise.all(both.map((service) => openLive(service, others.user)));
    // All four tokens are remembered now, on both nodes.
    for (const service of both)
      for (const token of [operator, others.operator])
        expect(await ask(service, token)).toMatchObject({ status: 200 });

    await act();
    expect(await ask(here, operator)).toMatchObject(answer);
    expect(await ask(here, user)).toMatchObject(answer);
    // It looks every CHANGES_POLL_MS, and now.
    await there.app.get(ChangeFeed).now();
    expect(await ask(there, operator)).toMatchObject(answer);
    expect(await ask(there, user)).toMatchObject(answer);
    await Promise.all(ending.map(expectRevoked));

    // A stream is a request like any other: no 200 with a bye in it.
    for (const service of both) expect((await open(service, user)).status).toBe(answer.status);
    for (const service of both) expect(await ask(service, others.operator)).toMatchObject({ status: 200 });
    await expectAlive(others.tenant, staying);
  });
});

test('what was suspended is let in again when it is active again, on both nodes', async () => {
  const tenant = 'back-again';
  const token = userToken({ tenant });
  await openLive(here, token);
  await setTenant(here, tenant, { status: 'suspended' });
  expect((await open(here, token)).status).toBe(403);
  await setTenant(there, tenant, { status: 'active' });
  await openLive(there, token);
  await eventually(async () => {
    const stream = await open(here, token);
    expect(stream.status).toBe(200);
  });
});

test('nothing happens to the same token id and the same user of another tenant', async () => {
  const token = (tenant: string) => userToken({ tenant, claims: { jti: 'same' } });
  const [ending, staying] = [await openLive(there, token('twin-1')), await openLive(there, token('twin-2'))];
  await revokeToken(here, 'twin-1', 'same');
  await revokeUser(here, 'twin-1', 'alice');
  await expectRevoked(ending);
  await expectAlive('twin-2', [staying]);
});

test('of a thousand streams of a tenant, those of the user who is revoked end and no other', async () => {
  const tenant = 'crowd';
  const all = await Promise.all(
    Array.from({ length: 1_000 }, async (_, i) => {
      const user = i % 400 === 0 ? 'mallory' : `u${i}`;
      return { user, stream: await open(i % 2 === 0 ? here : there, userToken({ tenant, user })) };
    }),
  );
  await Promise.all(all.map(({ stream }) => stream.untilEvent('caught-up')));
  const his = all.filter(({ user }) => user === 'mallory').map(({ stream }) => stream);
  expect(his).toHaveLength(3);
  await revokeUser(here, tenant, 'mallory', new Date());
  await Promise.all(his.map(expectRevoked));
  const others = all.filter(({ user }) => user !== 'mallory').map(({ stream }) => stream);
  await expectAlive(tenant, others);
  expect(others.flatMap((stream) => stream.named('bye'))).toEqual([]);
});

test('a stream that was being opened meanwhile gets a bye and nothing else', async () => {
  const tenant = 'opening';
  const token = userToken({ tenant, claims: { jti: 'opening-1' } });
  const first = await openLive(here, token);
  await first.cut();
  await publish(here.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: 'secret' });
  // Whoever holds the device's row holds up its arrival.
  const holder = new pg.Client({ connectionString: here.database.url });
  await holder.connect();
  await holder.query('begin');
  await holder.query('select from devices where tenant_id = $1 for update', [tenant]);
  const late = await open(here, token);
  expect(late.status).toBe(200);
  await revokeToken(here, tenant, 'opening-1');
  expect(late.named('sync')).toEqual([]);
  await holder.query('rollback');
  await holder.end();
  await expectRevoked(late);
  expect(late.named('sync')).toEqual([]);
  expect(late.notifications).toEqual([]);
});

test('a node that starts anew refuses what was revoked before, from its first request on', async () => {
  const tenant = 'restart';
  const token = serviceToken({ tenant, scope: SCOPE, claims: { jti: 'restart-1' } });
  await revokeToken(here, tenant, 'restart-1');
  const anew = await startService({ NODE_NAME: 'anew' }, { database: here.database });
  expect(await ask(anew, token)).toMatchObject(refused);
  await anew.close();
});

test('a revoked token is refused to the last second in which it would have been forgiven, also by a node that starts then', async () => {
  const tenant = 'grace';
  const exp = Math.floor((Date.now() - FORGIVEN_MS) / 1_000);
  const token = (jti: string) => serviceToken({ tenant, scope: SCOPE, claims: { jti, exp } });
  const clock = new TestClock();
  try {
    clock.set(exp * 1_000 + FORGIVEN_MS - 1);
    await here.database.query(
      `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
       values ($1, gen_random_uuid(), 'token', 'revoked', to_timestamp($2))`,
      [tenant, exp],
    );
    await here.app.get(ChangeFeed).now();
    const anew = await startService({ ...ISSUERS, NODE_NAME: 'anew' }, { database: here.database });
    for (const service of [here, anew]) {
      expect(await ask(service, token('revoked'))).toMatchObject({
        ...refused,
        body: { detail: 'The token was revoked.' },
      });
      expect((await ask(service, token('other'))).status).toBe(200);
    }
    await anew.close();
  } finally {
    clock.restore();
  }
});

describe('to disconnect a user', () => {
  test('ends his open streams on every node and of every device, and nobody else’s', async () => {
    const tenant = 'disconnected';
    const token = userToken({ tenant });
    const his = [await openLive(here, token), await openLive(there, token)];
    const phone = await open(there, token, { device: 'phone' });
    await phone.untilEvent('caught-up');
    const others = [
      await openLive(here, userToken({ tenant, user: 'bob' })),
      await openLive(there, userToken({ tenant, user: 'Alice' })),
    ];
    const elsewhere = await openLive(there, userToken({ tenant: 'disconnected2' }));
    await disconnect(here, tenant, 'alice');
    // It looks every CHANGES_POLL_MS, and now.
    await there.app.get(ChangeFeed).now();
    await publish(there.url, serviceToken({ tenant }), {
      to: { user: 'alice' },
      type: 't',
      data: 'too late',
    });
    await Promise.all([...his, phone].map(expectRevoked));
    expect([...his, phone].flatMap((stream) => stream.notifications)).toEqual([]);
    await expectAlive(tenant, others);
    await expectAlive('disconnected2', [elsewhere]);
  });

  test('does not end what he opens afterwards, though the node of it hears of the order only then', async () => {
    const tenant = 'comes-back';
    const token = userToken({ tenant });
    const before = [await openLive(here, token), await openLive(there, token)];
    await disconnect(here, tenant, 'alice');
    const after = [await openLive(here, token), await openLive(there, token)];
    await Promise.all(before.map(expectRevoked));
    await there.app.get(ChangeFeed).now();
    await expectAlive(tenant, after);
  });

  test('ends a stream that was opened a moment before', async () => {
    const tenant = 'a-moment';
    const token = userToken({ tenant });
    for (let i = 0; i < 20; i += 1) {
      const stream = await open(i % 2 === 0 ? here : there, token);
      await stream.untilEvent('sync');
      await disconnect(here, tenant, 'alice');
      await expectRevoked(stream);
    }
  });
});

describe('to close a connection', () => {
  test('ends that stream, wherever it is, and no other of the same user and device', async () => {
    const tenant = 'closed';
    const token = userToken({ tenant });
    for (const service of [here, there]) {
      const [ending, staying] = [await openLive(service, token), await openLive(service, token)];
      await closeConnection(here, tenant, connectionOf(ending));
      await expectRevoked(ending);
      await expectAlive(tenant, [staying]);
    }
  });

  test('ends none of another tenant', async () => {
    const stream = await openLive(here, userToken({ tenant: 'closed-not' }));
    await closeConnection(here, 'closed', connectionOf(stream));
    await expectAlive('closed-not', [stream]);
  });
});

test('an order that a node hears late, since it could not ask, ends what was open then and nothing younger', async () => {
  const tenant = 'late-order';
  const token = userToken({ tenant });
  const proxy = await BreakingProxy.start(here.database);
  const database = { ...here.database, urls: proxy.urls };
  const deaf = await startService({ NODE_NAME: 'deaf' }, { database });
  const old = await openLive(deaf, token);
  const hearing = new AbortController();
  // All else that it asks of the database is answered.
  const losing = (async () => {
    while (!hearing.signal.aborted) await proxy.lose('statement', 'change_feed_snapshot');
  })();
  await deaf.app.get(ChangeFeed).now();
  await disconnect(here, tenant, 'alice');
  const younger = await openLive(deaf, token);
  await deaf.app.get(ChangeFeed).now();
  await expectAlive(tenant, [old, younger]);
  hearing.abort();
  await losing;
  await deaf.app.get(ChangeFeed).now();
  await expectRevoked(old);
  await expectAlive(tenant, [younger]);
  await younger.cut();
  await deaf.close();
  await proxy.close();
});
