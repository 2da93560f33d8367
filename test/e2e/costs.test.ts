import type { Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { statementsRunIn } from '../support/statement-log.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/* What the hot path costs, in counts: they are the same on every machine, where times are not. */

/** Every write of the service that holds notifications, which is one system call, as the pieces that it was made of. */
const writes: { readonly socket: Socket; readonly pieces: readonly Buffer[] }[] = [];

/** A notification's frame is a chunk that begins with its id; an answer to a publish is none. */
const isFrame = (piece: unknown): piece is Buffer =>
  Buffer.isBuffer(piece) && /^[0-9a-f]+\r\nid: /.test(piece.toString('latin1', 0, 16));

/** Node hands to `_write` what is written by itself, and to `_writev` what has waited for one another. */
function watch(socket: Socket): void {
  const wrap = (name: '_write' | '_writev', piecesOf: (first: unknown) => readonly unknown[]): void => {
    const method: unknown = Reflect.get(socket, name);
    if (typeof method !== 'function') throw new Error(`A socket has no ${name}.`);
    Reflect.set(socket, name, (...parameters: unknown[]) => {
      const pieces = piecesOf(parameters[0]).filter(isFrame);
      if (pieces.length > 0) writes.push({ socket, pieces });
      Reflect.apply(method, socket, parameters);
    });
  };
  wrap('_write', (chunk) => [chunk]);
  wrap('_writev', (chunks) => (chunks as { chunk: unknown }[]).map(({ chunk }) => chunk));
}

let service: Service;
beforeAll(async () => {
  service = await startService({}, { prepare: (app) => app.getHttpServer().on('connection', watch) });
});
afterAll(() => service.close());

const publisher = (tenant: string) =>
  serviceToken({ tenant, scope: 'notifications:publish notifications:broadcast' });

const openHeads = (tenant: string, count: number): Promise<StreamClient[]> =>
  Promise.all(
    Array.from({ length: count }, (_, n) =>
      StreamClient.open(service.url, userToken({ tenant, user: `u${n}` })),
    ),
  );

async function openMany(tenant: string, count: number): Promise<StreamClient[]> {
  const streams = await openHeads(tenant, count);
  for (const stream of streams) await stream.untilEvent('caught-up');
  return streams;
}

/** Keeps the statements by which streams arrive waiting until `work` is done. */
async function whileNobodyArrives(work: () => Promise<void>): Promise<void> {
  const holder = new pg.Client({ connectionString: service.database.url });
  await holder.connect();
  try {
    await holder.query('begin; lock table devices in exclusive mode');
    await work();
  } finally {
    await holder.end();
  }
}

/** The statements of the service's login that ran while this was done, and how often. */
async function callsOf(work: () => Promise<unknown>): Promise<Map<string, number>> {
  const before = await statementsRunIn(service.database.url);
  await work();
  const after = await statementsRunIn(service.database.url);
  return new Map(
    [...after].flatMap(([text, calls]) => {
      const more = calls - (before.get(text) ?? 0);
      return more === 0 ? [] : [[text.trim(), more] as const];
    }),
  );
}

const count = (calls: ReadonlyMap<string, number>, text: RegExp): number =>
  [...calls].reduce((sum, [each, times]) => (text.test(each) ? sum + times : sum), 0);

describe('a notification to everyone', () => {
  test('is encoded once, and is one write for each stream', async () => {
    const streams = await openMany('all', 10);
    writes.length = 0;
    await publish(service.url, publisher('all'), { to: { everyone: true }, type: 't', data: 'x' });
    for (const stream of streams) await stream.untilNotifications(1);
    expect(writes).toHaveLength(10);
    expect(new Set(writes.map(({ socket }) => socket)).size).toBe(10);
    expect(new Set(writes.flatMap(({ pieces }) => pieces)).size).toBe(1);
    for (const stream of streams) await stream.cut();
  });

  test('is one write for each stream together with those that it came with', async () => {
    const streams = await openMany('burst', 5);
    writes.length = 0;
    const notifications = Array.from({ length: 20 }, (_, n) => ({
      to: { everyone: true },
      type: 't',
      data: n,
    }));
    const answer = await post(`${service.url}/v1/notifications/batch`, publisher('burst'), { notifications });
    expect(answer.status).toBe(201);
    for (const stream of streams) await stream.untilNotifications(20);
    expect(writes.map(({ pieces }) => pieces.length)).toEqual(Array(5).fill(20));
    expect(new Set(writes.flatMap(({ pieces }) => pieces)).size).toBe(20);
    for (const stream of streams) await stream.cut();
  });
});

describe('one statement', () => {
  const APPEND = /^with log as materialized/;
  const REGISTER = /^with opening as materialized/;
  const BACKLOG = /\bown as \(/;
  const to = (n: number) => ({ to: { user: `u${n}` }, type: 't', data: n });

  test('stores a notification, or a batch', async () => {
    await publish(service.url, publisher('lone'), to(0));
    const one = await callsOf(() => publish(service.url, publisher('lone'), to(1)));
    expect([...one.values()]).toEqual([1, 1]);
    expect(count(one, APPEND)).toBe(1);
    const notifications = Array.from({ length: 100 }, (_, n) => to(n));
    const batch = await callsOf(() =>
      post(`${service.url}/v1/notifications/batch`, publisher('lone'), { notifications }),
    );
    // The other names the tenant, and goes out together with it.
    expect([...batch.values()]).toEqual([1, 1]);
    expect(count(batch, APPEND)).toBe(1);
  });

  test('serves many streams that come together, and one more reads what they missed', async () => {
    const tenant = 'crowd';
    for (const stream of await openMany(tenant, 100)) await stream.cut();
    const notifications = Array.from({ length: 100 }, (_, n) => to(n));
    for (let n = 0; n < 3; n += 1)
      await post(`${service.url}/v1/notifications/batch`, publisher(tenant), { notifications });
    const streams: StreamClient[] = [];
    writes.length = 0;
    const came = await callsOf(async () => {
      // The first is not served before all are there: each was answered with a head by then.
      await whileNobodyArrives(async () => {
        streams.push(...(await openHeads(tenant, 100)));
      });
      for (const stream of streams) await stream.untilEvent('caught-up');
    });
    for (const stream of streams) expect(stream.notifications).toHaveLength(3);
    // The first of them, and all others.
    expect(count(came, REGISTER)).toBeGreaterThan(0);
    expect(count(came, REGISTER)).toBeLessThanOrEqual(2);
    // Of those whose arrival is settled eight read on in one turn of the event loop.
    expect(count(came, BACKLOG)).toBeGreaterThan(0);
    expect(count(came, BACKLOG)).toBeLessThanOrEqual(13);
    // What each missed is one write.
    expect(writes.map(({ pieces }) => pieces.length)).toEqual(Array(100).fill(3));
    for (const stream of streams) await stream.cut();
  });
});
