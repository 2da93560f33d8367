import { once } from 'node:events';
import type { Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { FastifyInstance } from 'fastify';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { holding, untilHeld } from '../support/privacy.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { RawConnection, requestText } from '../support/wire.ts';

/* Every connection that is no open stream has an end. Waited for is the end; that it comes is what is kept, not when. */

const SHORT = 300;
const MIB = 1024 * 1024;

let service: Service;
beforeAll(async () => {
  service = await startService(
    {},
    {
      deadlines: {
        head: SHORT,
        request: 2 * SHORT,
        idle: SHORT,
        silence: 4 * SHORT,
        answer: 2 * SHORT,
        look: 50,
      },
    },
  );
});
afterAll(() => service.close());

const HEAD = `POST /v1/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${serviceToken()}\r\nContent-Type: application/json\r\n`;

describe('a connection ends', () => {
  test('when nothing is said on it, without a word', async () => {
    const connection = await RawConnection.open(service.url);
    await connection.closed;
    expect(connection.raw).toBe('');
  });

  test.each([
    ['half a head', 'GET /health/live HTTP/1.1\r\nHo'],
    ['half a body', `${HEAD}Content-Length: 100\r\n\r\n{`],
    ['a body of chunks that do not come', `${HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n`],
  ])('behind %s, and says why', async (_what, sent) => {
    // What comes too late, where the machine stands still for a moment, is nothing that was said.
    await eventually(async () => {
      const connection = await RawConnection.open(service.url);
      connection.send(sent);
      await connection.closed;
      expect(connection.answers).toMatchObject([{ status: 408 }]);
      expect(connection.answers[0]?.body).toContain('"code":"request_timeout"');
    });
  });

  test('behind half a head, however long the request may take', async () => {
    const patient = await startService(
      {},
      { database: service.database, deadlines: { head: SHORT, request: 600_000, look: 50 } },
    );
    const connection = await RawConnection.open(patient.url);
    connection.send('GET /health/live HTTP/1.1\r\nHo');
    await connection.closed;
    expect(connection.answers).toMatchObject([{ status: 408 }]);
    await patient.close();
  });

  test('behind an answer, when no other request comes', async () => {
    // The request itself has all the time it needs.
    const patient = await startService(
      {},
      { database: service.database, deadlines: { head: 600_000, request: 600_000, idle: SHORT, look: 50 } },
    );
    const connection = await RawConnection.open(patient.url);
    connection.send(requestText('/health/live'));
    await connection.closed;
    expect(connection.answers).toMatchObject([{ status: 200, complete: true }]);
    await patient.close();
  });

  // Each by a deadline of its own: the other one would end it, too.
  test.each([
    ['at all', 0, { silence: SHORT, answer: 600_000 }],
    ['but a few bytes now and then', 1_024, { silence: 600_000, answer: SHORT }],
  ])('when its client does not read %s', async (_how, bytes, deadlines) => {
    const unread = await startService({}, { database: service.database, deadlines });
    const server: Server = unread.app.getHttpServer();
    const accepted = once(server, 'connection');
    const client = connect(Number(new URL(unread.url).port), '127.0.0.1')
      .on('error', () => undefined)
      .pause();
    const [socket]: Socket[] = await accepted;
    if (socket === undefined) throw new Error('no connection');
    const closed = once(socket, 'close');
    // One at a time is answered, so that there is always one which does not fit what the kernel takes.
    client.write(requestText('/openapi.json').repeat(100));
    const sips = setInterval(() => client.read(bytes), SHORT / 4);
    await closed;
    clearInterval(sips);
    client.destroy();
    await unread.close();
  });

  test('when its client sips at an answer that is sent page by page', async () => {
    function* pages(): Generator<Buffer> {
      const page = Buffer.alloc(64 * MIB, 'x');
      for (;;) yield page;
    }
    const sipping = await startService(
      {},
      {
        database: service.database,
        deadlines: { answer: 2 * SHORT },
        prepare: (app) => {
          const fastify: FastifyInstance = app.getHttpAdapter().getInstance();
          fastify.get('/pages', (_request, reply) =>
            reply.send(Readable.from(pages(), { objectMode: false })),
          );
        },
      },
    );
    const client = connect(Number(new URL(sipping.url).port), '127.0.0.1').on('error', () => undefined);
    client.write(requestText('/pages'));
    // The service is never without progress; it would have sent a page in half a minute, and the next one then.
    const sips = setInterval(() => client.resume().once('data', () => client.pause()), SHORT / 10);
    await once(client, 'close');
    clearInterval(sips);
    await sipping.close();
  });
});

const PATIENT = { head: 600_000, request: 600_000, idle: 600_000 };

const LIVE = requestText('/health/live');

test.each([
  ['say half a request', LIVE.slice(0, 1), LIVE.slice(1)],
  ['were answered and say no more', LIVE, LIVE],
])(
  'more connections than a node may have take the places of those that %s, and are served',
  async (_what, said, rest) => {
    const small = await startService({ MAX_CONNECTIONS: '1' }, { deadlines: { ...PATIENT, patience: 0 } });
    const dropped: unknown[] = [];
    const server: Server = small.app.getHttpServer();
    server.on('drop', (which) => dropped.push(which));
    // One that waits for nobody but the service, and one that says nothing, from an address that has no other.
    const stream = await StreamClient.open(small.url, userToken());
    const from = { port: Number(new URL(small.url).port), host: '127.0.0.1', localAddress: '127.0.0.2' };
    const other = connect(from);
    await once(other, 'connect');
    const crowd: RawConnection[] = [];
    for (let n = 0; n < 1_100; n += 1) {
      const connection = await RawConnection.open(small.url);
      connection.send(said);
      if (said === LIVE) await connection.until(([answer]) => answer?.complete, 'an answer');
      crowd.push(connection);
    }
    await crowd[0]?.closed;
    other.write(requestText('/health/live', { headers: { connection: 'close' } }));
    expect(await text(other)).toMatch(/^HTTP\/1\.1 200/);
    const last = crowd.at(-1);
    const before = last?.answers.length ?? 0;
    last?.send(rest);
    await last?.until((answers) => answers[before]?.complete, 'an answer');
    expect(dropped).toEqual([]);
    await stream.untilEvent('caught-up');
    for (const { socket } of crowd) socket.destroy();
    await stream.cut();
    await small.close();
  },
);

test('a connection whose request is served keeps its place, however many come', async () => {
  const small = await startService({ MAX_CONNECTIONS: '1' }, { deadlines: { ...PATIENT, patience: 0 } });
  const release = await holding(small.database, 'lock table tenant_logs in access exclusive mode');
  const busy = await RawConnection.open(small.url);
  const body = { to: { user: 'alice' }, type: 't', data: 1 };
  busy.send(requestText('/v1/notifications', { token: serviceToken(), body }));
  await untilHeld(small.database, 'tenant_logs');
  const crowd: RawConnection[] = [];
  for (let n = 0; n < 1_100; n += 1) crowd.push(await RawConnection.open(small.url));
  await crowd[0]?.closed;
  await release();
  await busy.until(([answer]) => answer?.complete, 'an answer');
  for (const { socket } of [busy, ...crowd]) socket.destroy();
  await small.close();
});

test('more connections than a node may have are closed, and the others are served', async () => {
  const small = await startService(
    { MAX_CONNECTIONS: '1' },
    { deadlines: { ...PATIENT, patience: 600_000 } },
  );
  const server: Server = small.app.getHttpServer();
  const dropped: unknown[] = [];
  server.on('drop', (which) => dropped.push(which));
  const connections: RawConnection[] = [];
  while (dropped.length === 0) connections.push(await RawConnection.open(small.url));
  expect(connections.length).toBeGreaterThan(1_000);
  const [first] = connections;
  first?.send(requestText('/health/live'));
  await first?.until(([answer]) => answer?.complete, 'an answer');
  for (const { socket } of connections) socket.destroy();
  await small.close();
});
