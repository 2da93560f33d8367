import { generateKeyPairSync } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { KEY_SET_TIMING } from '../../../src/auth/keys.ts';
import { get, post, publish } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { eventually } from '../../support/eventually.ts';
import { PROVIDER_ALGORITHMS } from '../../support/provider-configuration.ts';
import { startProvider, type IdentityProvider } from '../../support/provider.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { sign } from '../../support/tokens.ts';

/*
 * The same promises as on a real node, with tenths of seconds in place of seconds. Whoever waits for a key server that does not
 * answer waits for longer than a test.
 */
const REAL_TIMING = { ...KEY_SET_TIMING };
const COOLDOWN = 500;
const REST = 100;
const PATIENCE = 10 * 60_000;

let provider: IdentityProvider;
let service: Service;

beforeEach(async () => {
  Object.assign(KEY_SET_TIMING, { timeout: PATIENCE, cooldown: COOLDOWN, rest: REST });
  provider = await startProvider();
  service = await startService({
    JWKS_URL: provider.jwksUrl,
    JWKS_ALGORITHMS: PROVIDER_ALGORITHMS.join(','),
    JWT_ISSUER: provider.issuer,
  });
});
afterEach(async () => {
  await service.close();
  await provider.stop();
  Object.assign(KEY_SET_TIMING, REAL_TIMING);
});

const publishAs = (token: string) =>
  publish(service.url, token, { to: { user: 'alice' }, type: 'order.shipped', data: null });

async function synced(token: string): Promise<StreamClient> {
  const stream = await StreamClient.open(service.url, token);
  await stream.untilEvent('sync');
  return stream;
}

const knock = (token: string) => get(`${service.url}/v1/notifications?user=alice`, token);
const operatorToken = () => provider.serviceToken({ client: 'console', scope: 'history:read' });
const several = <Value>(count: number, make: (index: number) => Promise<Value>): Promise<Value[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => make(index)));

describe('when the provider changes its keys', () => {
  test.each(['published', 'withdrawn'] as const)(
    'and the old ones are %s, open streams stay and tokens of the new ones work',
    async (old) => {
      const stream = await synced(await provider.userToken());
      provider.rotateKeys(old);
      const [operator, user] = await Promise.all([operatorToken(), provider.userToken({ device: 'phone' })]);
      const tokens = await Promise.all(PROVIDER_ALGORITHMS.map((alg) => provider.serviceToken({ alg })));
      // It takes until the cooldown after the first look is over.
      await eventually(async () => expect(await knock(operator)).toMatchObject({ status: 200 }));
      const ids = [];
      for (const token of tokens) ids.push((await publishAs(token)).id);
      const another = await synced(user);
      ids.push((await publishAs(tokens[0] ?? '')).id);

      const received = await stream.untilNotifications(4);
      expect(received.map(({ id }) => id)).toEqual(ids);
      await another.untilNotifications(1);
      expect(stream.named('bye')).toEqual([]);
      expect(provider.keySetRequests).toBe(2);
      await Promise.all([stream.cut(), another.cut()]);
    },
  );

  test('tokens of those that are still published go on working, and of those that were withdrawn do not', async () => {
    const [first, second, third] = await several(3, operatorToken);
    expect(await knock(first ?? '')).toMatchObject({ status: 200 });
    provider.rotateKeys('published');
    const renewed = await operatorToken();
    await eventually(async () => expect(await knock(renewed)).toMatchObject({ status: 200 }));
    expect(await knock(second ?? '')).toMatchObject({ status: 200 });

    provider.rotateKeys('withdrawn');
    const latest = await operatorToken();
    await eventually(async () => expect(await knock(latest)).toMatchObject({ status: 200 }));
    expect(await knock(third ?? '')).toMatchObject({
      status: 401,
      body: { code: 'token_invalid', detail: expect.stringContaining('`kid`') },
    });
  });

  test('a withdrawn key is forgotten though no token asks for a new one', async () => {
    const tokens = await several(20, operatorToken);
    expect(await knock(tokens.pop() ?? '')).toMatchObject({ status: 200 });
    provider.rotateKeys('withdrawn');
    expect(await knock(tokens.pop() ?? '')).toMatchObject({ status: 200 });
    KEY_SET_TIMING.refreshAfter = 0;
    // Each is a new one: a last one is let in while the keys are fetched beside it.
    const refused = async () => expect(await knock(tokens.pop() ?? '')).toMatchObject({ status: 401 });
    await eventually(refused, { every: 250 });
    expect(tokens.length).toBeGreaterThan(0);
  });

  test('a signature that was seen before is held against the keys again ten minutes later', async () => {
    const token = await operatorToken();
    expect(await knock(token)).toMatchObject({ status: 200 });
    provider.rotateKeys('withdrawn');
    const latest = await operatorToken();
    await eventually(async () => expect(await knock(latest)).toMatchObject({ status: 200 }));

    const later = performance.now() + 10 * 60_000;
    const clock = jest.spyOn(performance, 'now').mockReturnValue(later);
    try {
      expect(await knock(latest)).toMatchObject({ status: 200 });
      expect(await knock(token)).toMatchObject({ status: 401, body: { code: 'token_invalid' } });
    } finally {
      clock.mockRestore();
    }
  });
});

describe('while the provider is away', () => {
  test('streams stay, known keys serve on, and an unknown one is no fault of the token', async () => {
    const [user, other, billing, operator] = await Promise.all([
      provider.userToken(),
      provider.userToken({ device: 'phone' }),
      provider.serviceToken(),
      operatorToken(),
    ]);
    const stream = await synced(user);
    provider.rotateKeys('published');
    const [renewedUser, renewedOperator] = await Promise.all([provider.userToken(), operatorToken()]);
    await provider.stop();
    KEY_SET_TIMING.refreshAfter = 0;

    // None of these was seen before.
    const { id } = await publishAs(billing);
    expect(await knock(operator)).toMatchObject({ status: 200 });
    const second = await synced(other);
    expect(await stream.untilNotifications(1)).toMatchObject([{ id }]);

    await eventually(async () => expect(await knock(renewedOperator)).toMatchObject({ status: 503 }));
    const { status, body, headers } = await knock(renewedOperator);
    expect({ status, code: body['code'] }).toEqual({ status: 503, code: 'keys_unavailable' });
    expect(headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
    const waiting = await StreamClient.open(service.url, renewedUser);
    await waiting.closed;
    expect(waiting.status).toBe(200);
    expect(waiting.named('sync')).toEqual([]);
    expect(waiting.named('bye')).toMatchObject([{ reason: 'unavailable' }]);
    expect(waiting.retries.at(-1)).toBeGreaterThan(0);

    await provider.start();
    await eventually(async () => expect(await knock(renewedOperator)).toMatchObject({ status: 200 }));
    const back = await synced(renewedUser);
    const after = await publishAs(billing);
    for (const open of [stream, second, back]) {
      await open.until(() => open.notifications.at(-1)?.id === after.id, 'the last notification');
      expect(open.named('bye')).toEqual([]);
      await open.cut();
    }
  });

  test('nobody is let in whose key was never seen, and everybody once it is back', async () => {
    const [user, billing] = await Promise.all([provider.userToken(), provider.serviceToken()]);
    await provider.stop();
    const waiting = await StreamClient.open(service.url, user);
    await waiting.closed;
    expect(waiting.named('bye')).toMatchObject([{ reason: 'unavailable' }]);
    const notification = { to: { user: 'alice' }, type: 'a', data: null };
    expect(await post(`${service.url}/v1/notifications`, billing, notification)).toMatchObject({
      status: 503,
      body: { code: 'keys_unavailable' },
    });
    await provider.start();
    await eventually(async () => void (await publishAs(billing)));
    const stream = await synced(user);
    await stream.untilNotifications(1);
    await stream.cut();
  });
});

describe('while the provider comes and goes', () => {
  /** Opens a stream and tells what came of it: a status, or the first event. */
  async function connect(token: string): Promise<string> {
    const stream = await StreamClient.open(service.url, token);
    const bye = () => stream.named('bye').map(({ reason }) => `bye ${String(reason)}`);
    const outcome =
      stream.status === 200
        ? await stream.until(() => bye()[0] ?? stream.events[0]?.event, 'an event')
        : String(stream.status);
    await stream.cut();
    return outcome;
  }

  test('fifty clients are all answered without waiting for it, rightly, and without a storm on its key set', async () => {
    const honest = await several(25, (index) => provider.userToken({ user: `user ${index}` }));
    const foreign = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
    const forged = honest.map((token, index) => {
      const [header = {}, payload = {}] = token.split('.', 2).map(decoded);
      // Every other one names a key that the provider has, the rest one that it might have by now.
      return sign(
        payload,
        { ...header, alg: 'RS256', ...(index % 2 === 0 ? {} : { kid: `key ${index}` }) },
        foreign,
      );
    });
    await provider.stop();

    const over = new AbortController();
    const outcomes: string[][] = [...honest, ...forged].map(() => []);
    const ofHonest = () => outcomes.slice(0, honest.length).flat();
    const ofForged = () => outcomes.slice(honest.length).flat();
    const keepConnecting = async (token: string, index: number): Promise<void> => {
      while (!over.signal.aborted) outcomes[index]?.push(await connect(token));
    };
    const began = performance.now();
    const clients = Promise.all([...honest, ...forged].map(keepConnecting));
    await eventually(() => {
      expect(ofHonest()).toContain('bye unavailable');
      expect(ofForged()).toContain('bye unavailable');
    });
    const rounds = 10;
    for (let round = 0; round < rounds; round++) {
      await sleep(150);
      await provider.start();
      await sleep(150);
      if (round === 0)
        await eventually(() => {
          expect(ofHonest()).toContain('sync');
          expect(ofForged()).toContain('401');
        });
      await provider.stop();
    }
    // One after each cooldown, and those that were cut by the stop that ended their round.
    const mostRequests = () => 1 + (performance.now() - began) / COOLDOWN + rounds;
    await eventually(() => expect(ofForged().length).toBeGreaterThan(2 * mostRequests()));
    over.abort();
    await clients;

    const kinds = (of: string[]) => [...new Set(of)].toSorted();
    expect(kinds(ofHonest())).toEqual(['bye unavailable', 'sync']);
    expect(kinds(ofForged())).toEqual(['401', 'bye unavailable']);
    expect(provider.keySetRequests).toBeLessThanOrEqual(mostRequests());
  });
});

function decoded(part: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(part, 'base64url').toString()) as Record<string, unknown>;
}
