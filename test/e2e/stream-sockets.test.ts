import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { FastifyRequest } from 'fastify';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { sign, TEST_AUDIENCE, userToken } from '../support/tokens.ts';
import { RawConnection, requestText } from '../support/wire.ts';

/* What a stream costs beside its bytes. */

const requests: WeakRef<IncomingMessage | ServerResponse | FastifyRequest>[] = [];

let service: Service;
beforeAll(async () => {
  service = await startService(
    {},
    {
      prepare: (app) =>
        app
          .getHttpAdapter()
          .getInstance()
          .addHook('onRequest', (request, reply, done) => {
            for (const each of [request, request.raw, reply.raw]) requests.push(new WeakRef(each));
            // As the framework does while it stops, and as a hook may.
            reply.header('cache-control', 'public').raw.setHeader('connection', 'keep-alive');
            done();
          }),
    },
  );
});
afterAll(() => service.close());

function collect(): void {
  setFlagsFromString('--expose-gc');
  const gc: unknown = runInNewContext('gc');
  if (typeof gc === 'function') gc();
}

const open = async (user: string): Promise<StreamClient> => {
  const stream = await StreamClient.open(service.url, userToken({ user }));
  await stream.untilEvent('caught-up');
  return stream;
};

test('each header of a stream is said once, and as streams need it', async () => {
  const stream = await open('headers');
  const { rawHeaders, headers } = stream.response;
  const names = rawHeaders.filter((_, n) => n % 2 === 0).map((name) => name.toLowerCase());
  expect(names).toHaveLength(new Set(names).size);
  expect(headers).toMatchObject({ 'cache-control': 'no-store, no-transform', connection: 'close' });
  expect(headers['x-request-id']).toBeDefined();
  await stream.cut();
  requests.length = 0;
});

test('a stream that is open keeps neither its request nor its response', async () => {
  const streams = [await open('a'), await open('b'), await open('c')];
  expect(requests).toHaveLength(9);
  await eventually(() => {
    collect();
    expect(requests.filter((each) => each.deref() !== undefined)).toEqual([]);
  });
  for (const stream of streams) {
    expect(stream.ended).toBe(false);
    await stream.cut();
  }
});

test('streams that end at once are closed a few at a time, so that nobody waits for all of them', async () => {
  const count = 200;
  const streams = await Promise.all(Array.from({ length: count }, (_, n) => open(`u-${n}`)));
  const left = async (): Promise<number> =>
    (await service.app.get(Metrics).connections.get()).values[0]?.value ?? 0;
  await eventually(async () => expect(await left()).toBe(count));
  // Looked at in every turn of the event loop, which is that of the service, too.
  const seen: number[] = [];
  const look = async (): Promise<void> => {
    for (let now = count; now > 0; await nextTurn()) {
      now = await left();
      seen.push(now);
    }
  };
  await Promise.all([...streams.map((stream) => stream.cut()), look()]);
  const drops = seen.slice(1).map((now, n) => (seen[n] ?? 0) - now);
  expect(Math.max(...drops)).toBeLessThanOrEqual(32);
});

describe('a stream that is refused', () => {
  const NO_KEYS = 'https://nowhere.example/';
  const refusals = {
    'since the node is full': {
      settings: { MAX_CONNECTIONS: '1' },
      reason: 'over-limit',
      token: userToken(),
    },
    'since its keys cannot be fetched': {
      settings: { JWKS_URL: 'http://127.0.0.1:1/', JWT_ISSUER: NO_KEYS },
      reason: 'unavailable',
      token: sign(
        { iss: NO_KEYS, aud: TEST_AUDIENCE, sub: 'alice', tenant_id: 'acme', iat: 1, exp: 4e9 },
        { alg: 'RS256', kid: 'unknown' },
        generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey,
      ),
    },
  };

  test.each(Object.entries(refusals))(
    '%s has an end, also when its client neither reads nor closes',
    async (_why, { settings, reason, token }) => {
      const refusing = await startService(settings);
      const holder = await RawConnection.open(refusing.url);
      if ('MAX_CONNECTIONS' in settings) {
        holder.send(requestText('/v1/stream', { token }));
        await holder.until(([answer]) => answer?.body.includes('caught-up'), 'the stream that may be');
      }
      const { port } = new URL(refusing.url);
      const server: Server = refusing.app.getHttpServer();
      const closed: Promise<unknown>[] = [];
      server.on('connection', (socket) => closed.push(once(socket, 'close')));
      const clients = Array.from({ length: 20 }, (_, n) => {
        const client = connect({ port: Number(port), host: '127.0.0.1', allowHalfOpen: true });
        client.on('error', () => undefined).write(requestText('/v1/stream', { token }));
        // Half of them do not even read what they are told.
        return n % 2 === 0 ? client : client.resume();
      });
      const metrics = refusing.app.get(Metrics);
      await eventually(() => expect(closed).toHaveLength(20));
      await Promise.all(closed);
      for (const client of clients) client.destroy();
      holder.socket.destroy();
      if (reason === 'over-limit')
        expect(
          (await metrics.overLimit.get()).values.find(({ labels }) => labels['limit'] === 'node')?.value,
        ).toBe(20);
      await refusing.close();
    },
  );

  test('is none when only its head was asked for: HEAD is told the status', async () => {
    const { settings, token } = refusals['since its keys cannot be fetched'];
    const refusing = await startService(settings);
    const { status, headers } = await fetch(`${refusing.url}/v1/stream`, {
      method: 'HEAD',
      headers: { authorization: `Bearer ${token}` },
    });
    expect([status, headers.get('content-type')]).toEqual([
      503,
      expect.stringMatching(/^application\/problem\+json/),
    ]);
    await refusing.close();
  });
});
