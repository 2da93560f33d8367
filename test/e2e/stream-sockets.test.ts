import type { IncomingMessage, ServerResponse } from 'node:http';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { FastifyRequest } from 'fastify';
import { Metrics } from '../../src/metrics/metrics.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { userToken } from '../support/tokens.ts';

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
