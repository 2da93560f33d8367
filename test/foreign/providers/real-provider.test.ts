import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { get, post, publish } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { eventually } from '../../support/eventually.ts';
import { PROVIDER_ALGORITHMS, type Bearer } from '../../support/provider-configuration.ts';
import { startProvider, type IdentityProvider } from '../../support/provider.ts';
import { StreamClient } from '../../support/stream-client.ts';

/** The provider that the settings name. */
let provider: IdentityProvider;
/** That of a customer, whose tokens are made differently. */
let customers: IdentityProvider;
let service: Service;

const customersClaims = ({ subject, tenant, topics, device, scopes }: Bearer) => ({
  account: { name: subject, 'home/office': tenant },
  tenant_id: tenant,
  'https://globex.example/groups': topics?.join(' '),
  installation: device,
  realm_access: { roles: ['offline_access', ...scopes] },
});

/** How the customer's tokens are read. */
const CUSTOMERS_NAMES = {
  tenant: '/account/home~1office',
  user: '/account/name',
  topics: 'https://globex.example/groups',
  device: 'installation',
  scopes: ['/realm_access/roles'],
};

beforeAll(async () => {
  [provider, customers] = await Promise.all([
    startProvider(),
    startProvider({ audience: 'https://tidings.globex.example', claims: customersClaims }),
  ]);
  service = await startService({
    JWKS_URL: provider.jwksUrl,
    JWKS_ALGORITHMS: PROVIDER_ALGORITHMS.join(','),
    JWT_ISSUER: provider.issuer,
  });
});
afterAll(async () => {
  await service.close();
  await Promise.all([provider.stop(), customers.stop()]);
});

const administrator = () => provider.serviceToken({ client: 'console', scope: 'tenants:admin' });

/** The registrations of this file that are not removed yet, by URL. */
const registered: string[] = [];

async function register(registration: Record<string, unknown>): Promise<void> {
  const answer = await post(`${service.url}/v1/issuers`, await administrator(), registration);
  expect(answer).toMatchObject({ status: 201 });
  registered.push(`${service.url}/v1/issuers/${String(answer.body['id'])}`);
}

async function removeRegistered(): Promise<void> {
  const headers = { authorization: `Bearer ${await administrator()}` };
  for (const url of registered.splice(0)) {
    expect((await fetch(url, { method: 'DELETE', headers })).status).toBe(204);
  }
}

const publishAs = (token: string, to: Record<string, unknown> = { user: 'alice' }) =>
  publish(service.url, token, { to, type: 'order.shipped', data: null });

async function synced(token: string): Promise<StreamClient> {
  const stream = await StreamClient.open(service.url, token);
  await stream.untilEvent('sync');
  return stream;
}

/** What is said of a token that is not believed; one that is gets 200, or 403 for want of a scope. */
async function refusal(token: string): Promise<{ status: number; detail: unknown }> {
  const { status, body } = await get(`${service.url}/v1/notifications`, token);
  return { status, detail: body['detail'] };
}

const headerOf = (token: string): unknown =>
  JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString());

describe('tokens of the provider that the settings name', () => {
  test.each(PROVIDER_ALGORITHMS)(
    'signed with %s let a service publish, a user listen and an operator look it up',
    async (alg) => {
      const user = `user of ${alg}`;
      const tokens = await Promise.all([
        provider.serviceToken({ alg }),
        provider.userToken({ user, device: 'phone', alg }),
        provider.serviceToken({ client: 'console', scope: 'history:read', alg }),
      ]);
      for (const token of tokens) expect(headerOf(token)).toMatchObject({ alg, typ: 'at+jwt' });
      const [service_, listener, operator] = tokens;

      const stream = await synced(listener);
      expect(stream.named('sync')).toMatchObject([{ device: 'phone' }]);
      const { id } = await publishAs(service_, { user });
      expect(await stream.untilNotifications(1)).toMatchObject([{ id, to: { user } }]);
      await stream.cut();

      const history = `${service.url}/v1/notifications?user=${encodeURIComponent(user)}`;
      await eventually(async () => {
        expect(await get(history, operator)).toMatchObject({
          status: 200,
          body: { items: [{ id, publisher: 'billing', devices: [{ user, device: 'phone' }] }] },
        });
      });
    },
  );

  test('carry topics', async () => {
    const stream = await synced(await provider.userToken({ user: 'tess', topics: ['news', 'sport'] }));
    const { id } = await publishAs(await provider.serviceToken(), { topic: 'sport' });
    expect(await stream.untilNotifications(1)).toMatchObject([{ id, to: { topic: 'sport' } }]);
    await stream.cut();
  });

  test('do not let a user publish or a service listen', async () => {
    const [user, billing] = await Promise.all([provider.userToken(), provider.serviceToken()]);
    const body = { to: { user: 'alice' }, type: 'a', data: null };
    expect(await post(`${service.url}/v1/notifications`, user, body)).toMatchObject({
      status: 403,
      body: { code: 'scope_missing' },
    });
    const stream = await StreamClient.open(service.url, billing);
    await stream.cut();
    expect(stream.status).toBe(403);
  });

  test('are not ID tokens, which are meant for the application that signed the user in', async () => {
    const { idToken } = await provider.userTokens();
    expect(await refusal(idToken)).toEqual({ status: 401, detail: expect.stringContaining('`aud`') });
  });
});

describe('a provider that was registered for one tenant', () => {
  beforeAll(async () => {
    await register({
      iss: customers.issuer,
      jwksUrl: customers.jwksUrl,
      algorithms: ['ES256', 'EdDSA'],
      audiences: ['https://tidings.globex.example'],
      tenant: 'globex',
      claims: CUSTOMERS_NAMES,
    });
  });
  afterAll(removeRegistered);

  test('says user, topics, device and scopes in claims of its own names', async () => {
    const [user, billing] = await Promise.all([
      customers.userToken({
        user: 'greta',
        tenant: 'globex',
        topics: ['news', 'sport'],
        device: 'tablet',
        alg: 'ES256',
      }),
      customers.serviceToken({ tenant: 'globex', alg: 'EdDSA' }),
    ]);
    const stream = await synced(user);
    expect(stream.named('sync')).toMatchObject([{ device: 'tablet' }]);
    await publishAs(billing, { user: 'greta' });
    await publishAs(billing, { topic: 'sport' });
    expect(await stream.untilNotifications(2)).toMatchObject([
      { to: { user: 'greta' } },
      { to: { topic: 'sport' } },
    ]);
    await stream.cut();
  });

  test('speaks for that tenant alone, whatever its tokens claim', async () => {
    const [user, operator, publisher] = await Promise.all([
      customers.userToken({ tenant: 'acme', alg: 'ES256' }),
      customers.serviceToken({ client: 'spy', tenant: 'acme', scope: 'history:read', alg: 'ES256' }),
      customers.serviceToken({ client: 'forger', tenant: 'acme', alg: 'ES256' }),
    ]);
    const [theirs, ours] = await Promise.all([synced(user), synced(await provider.userToken())]);
    const secret = await publishAs(await provider.serviceToken());
    const forged = await publishAs(publisher);

    expect(await theirs.untilNotifications(1)).toMatchObject([{ id: forged.id }]);
    expect(await ours.untilNotifications(1)).toMatchObject([{ id: secret.id }]);
    expect(await get(`${service.url}/v1/notifications/${secret.id}`, operator)).toMatchObject({
      status: 404,
    });
    expect(await get(`${service.url}/v1/notifications/${forged.id}`, operator)).toMatchObject({
      status: 200,
    });
    // A later one of their own shows that nothing of ours was still on its way.
    const last = await publishAs(publisher);
    await theirs.untilNotifications(2);
    expect(theirs.notifications.map(({ id }) => id)).toEqual([forged.id, last.id]);
    await Promise.all([theirs.cut(), ours.cut()]);
  });

  test('may use its algorithms and its scopes, and no others', async () => {
    const [algorithm, scope] = await Promise.all([
      customers.userToken({ tenant: 'globex', alg: 'RS256' }),
      customers.serviceToken({ client: 'root', tenant: 'globex', scope: 'tenants:admin', alg: 'ES256' }),
    ]);
    expect(await refusal(algorithm)).toEqual({ status: 401, detail: expect.stringContaining('`alg`') });
    expect(await refusal(scope)).toEqual({ status: 401, detail: expect.stringContaining('tenants:admin') });
  });
});

describe('a provider that was registered for several tenants', () => {
  afterEach(removeRegistered);

  test('names one of them in each token, and no other', async () => {
    await register({
      iss: customers.issuer,
      jwksUrl: customers.jwksUrl,
      audiences: ['https://tidings.globex.example'],
      tenants: ['globex', 'initech'],
      claims: CUSTOMERS_NAMES,
    });
    const [globex, initech, acme] = await Promise.all(
      ['globex', 'initech', 'acme'].map((tenant) => customers.userToken({ user: 'gus', tenant })),
    );
    const streams = await Promise.all([globex, initech].map((token) => synced(token ?? '')));
    for (const [index, tenant] of ['globex', 'initech'].entries()) {
      const { id } = await publishAs(await customers.serviceToken({ client: `${tenant} shop`, tenant }), {
        user: 'gus',
      });
      expect(await streams[index]?.untilNotifications(1)).toMatchObject([{ id }]);
    }
    expect(streams.map(({ notifications }) => notifications.length)).toEqual([1, 1]);
    expect(await refusal(acme ?? '')).toEqual({ status: 401, detail: expect.stringContaining('tenant') });
    await Promise.all(streams.map((stream) => stream.cut()));
    await removeRegistered();
    expect(await refusal(globex ?? '')).toEqual({ status: 401, detail: expect.stringContaining('`iss`') });
  });
});

describe('an ID token', () => {
  afterEach(removeRegistered);

  test.each([
    ['opens no stream where `at+jwt` is required', true, 401],
    ['opens one elsewhere, if the application is an audience of the service', false, 200],
  ])('%s', async (_, requireAtJwt, status) => {
    await register({
      iss: customers.issuer,
      jwksUrl: customers.jwksUrl,
      // A mistake that administrators make: it is the application for which users sign in.
      audiences: ['https://tidings.globex.example', customers.userClient],
      tenant: 'globex',
      claims: CUSTOMERS_NAMES,
      requireAtJwt,
    });
    const { accessToken, idToken } = await customers.userTokens({ tenant: 'globex' });
    const [accessed, identified] = await Promise.all(
      [accessToken, idToken].map((token) => StreamClient.open(service.url, token)),
    );
    expect([accessed?.status, identified?.status]).toEqual([200, status]);
    if (status === 401)
      expect(await refusal(idToken)).toMatchObject({ detail: expect.stringContaining('`typ`') });
    await Promise.all([accessed?.cut(), identified?.cut()]);
  });
});
