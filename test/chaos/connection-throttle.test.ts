import { once } from 'node:events';
import type { Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { usersOf } from '../load/sockets.ts';
import { startService, type Service } from '../support/app.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startServiceProcess, type ServiceProcess } from '../support/service-process.ts';
import { serviceToken } from '../support/tokens.ts';

let database: TestDatabase;
let service: ServiceProcess;
/**
 * The service in this process, and of what it began the remote ports, in order. Here whoever asks and whoever answers
 * have one event loop, so that a machine that stands still for a moment changes nothing of that order.
 */
let here: Service;
const begun: (number | undefined)[] = [];
let accepted = 0;
let port: number;
beforeAll(async () => {
  database = await createDatabase();
  service = await startServiceProcess(database);
  here = await startService(
    {},
    {
      database,
      prepare: (app) => {
        const server: Server = app.getHttpServer();
        server.on('connection', () => (accepted += 1));
        app
          .getHttpAdapter()
          .getInstance()
          .addHook('onRequest', ({ raw: { socket } }, _reply, done) => {
            begun.push(socket.remotePort);
            done();
          });
      },
    },
  );
});
beforeEach(() => {
  port = Number(new URL(service.url).port);
  begun.length = 0;
  accepted = 0;
});
afterAll(async () => {
  await here.close();
  await service.end();
  await database.drop();
});

/** Connections count from when the kernel has them; the service comes to them one after the other. */
const untilAccepted = (connections: number) => eventually(() => expect(accepted).toBe(connections));

/** Which of all that was begun came from that port, from 0 on. */
const placeOf = (from: number | undefined): number => begun.indexOf(from);

const LIVE = 'GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n';

async function open(localAddress = '127.0.0.1'): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', localAddress });
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

describe('connections that come at once', () => {
  test('are all served, however many they are', async () => {
    const answers = await Promise.all(
      Array.from({ length: 1_000 }, async () => {
        const socket = await open();
        socket.write(LIVE);
        return await text(socket);
      }),
    );
    expect(answers.filter((answer) => answer.startsWith('HTTP/1.1 200'))).toHaveLength(1_000);
  });

  test('do not hold up one that is there already', async () => {
    port = Number(new URL(here.url).port);
    const known = await open();
    known.write(LIVE.replace('close', 'keep-alive'));
    await once(known, 'data');
    const crowd = await Promise.all(Array.from({ length: 1_000 }, () => open()));
    await untilAccepted(1_001);
    begun.length = 0;
    const from = known.localPort;
    const all = Promise.all(crowd.map((socket) => text(socket)));
    for (const socket of crowd) socket.write(LIVE);
    // It is asked after all of them and waits for few of them.
    known.write(LIVE);
    await text(known);
    await all;
    expect(begun).toHaveLength(1_001);
    expect(placeOf(from)).toBeLessThan(300);
  });

  test('and want streams do not hold up a new one that wants something else', async () => {
    port = Number(new URL(here.url).port);
    const crowd = await Promise.all(Array.from({ length: 500 }, () => open()));
    const late = await open();
    await untilAccepted(501);
    const requests = usersOf('crowd', 500).map(({ request }) => request);
    const all = Promise.all(crowd.map((socket) => once(socket, 'data')));
    crowd.forEach((socket, n) => socket.write(requests[n] ?? ''));
    late.write(LIVE);
    const from = late.localPort;
    expect(await text(late)).toMatch(/^HTTP\/1\.1 200/);
    await all;
    expect(begun).toHaveLength(501);
    expect(placeOf(from)).toBeLessThan(250);
    for (const socket of crowd) socket.destroy();
  });

  test('and say nothing keep nobody out', async () => {
    const silent = await Promise.all(Array.from({ length: 300 }, () => open()));
    const socket = await open();
    socket.write(LIVE);
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 200/);
    // Nor are they forgotten.
    for (const each of silent) each.write(LIVE);
    const answers = await Promise.all(silent.map((each) => text(each)));
    expect(answers.filter((answer) => answer.startsWith('HTTP/1.1 200'))).toHaveLength(300);
  });

  test('and say half a request keep nobody out', async () => {
    // A machine that stands still for a moment spoils the ratio of two times: then there is another crowd.
    await eventually(async () => {
      // Waited for one after the other, a hundred a second, they would take half a minute.
      const half = await Promise.all(Array.from({ length: 4_000 }, () => open()));
      for (const each of half) each.write(LIVE.slice(0, 1));
      const socket = await open();
      const asked = performance.now();
      socket.write(LIVE);
      const answer = await text(socket);
      const answered = performance.now();
      // Nor are they forgotten; and the last of them take as long as a machine like this one needs. All of them might take
      // longer than a head may.
      const whole = half.slice(-300);
      for (const each of whole) each.write(LIVE.slice(1));
      const answers = await Promise.all(whole.map((each) => text(each)));
      const served = performance.now();
      for (const each of half) each.destroy();
      for (const each of [answer, ...answers]) expect(each).toMatch(/^HTTP\/1\.1 200/);
      expect((answered - asked) / (served - answered)).toBeLessThan(10);
    });
  });

  test('from one address do not hold up one from another', async () => {
    port = Number(new URL(here.url).port);
    const crowd = await Promise.all(Array.from({ length: 1_000 }, () => open()));
    const late = await open('127.0.0.2');
    await untilAccepted(1_001);
    const from = late.localPort;
    const all = Promise.all(crowd.map((socket) => text(socket)));
    for (const socket of crowd) socket.write(LIVE);
    late.write(LIVE);
    expect(await text(late)).toMatch(/^HTTP\/1\.1 200/);
    await all;
    expect(begun).toHaveLength(1_001);
    expect(placeOf(from)).toBeLessThan(500);
  });

  test('and go again before they were served are given up', async () => {
    const gone = await Promise.all(Array.from({ length: 500 }, () => open()));
    for (const each of gone) each.resetAndDestroy();
    const socket = await open();
    socket.write(LIVE);
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 200/);
  });
});

describe('the first request of a connection', () => {
  test('is followed by those behind it in their order', async () => {
    const socket = await open();
    socket.write(
      `${LIVE.replace('close', 'keep-alive')}GET /nothing/here HTTP/1.1\r\nHost: x\r\n\r\n${LIVE}`,
    );
    const statuses = [...(await text(socket)).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status);
    expect(statuses).toEqual(['200', '404', '200']);
  });

  test('waits for none of the thousands that another one has sent at once', async () => {
    port = Number(new URL(here.url).port);
    const greedy = await open();
    const request = `GET /health/live HTTP/1.1\r\nHost: x\r\nPadding: ${'x'.repeat(1_000)}\r\n\r\n`;
    greedy.write(request.repeat(4_000));
    await once(greedy, 'data');
    greedy.resume();
    const socket = await open();
    const from = socket.localPort;
    socket.write(LIVE);
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 200/);
    await eventually(() => expect(begun).toHaveLength(4_001));
    expect(placeOf(from)).toBeLessThan(2_000);
    greedy.destroy();
  });

  test('may have a body that comes later, and in pieces', async () => {
    const socket = await open();
    const body = JSON.stringify({ to: { user: 'alice' }, type: 'x', data: 'x'.repeat(50_000) });
    const head = [
      'POST /v1/notifications HTTP/1.1',
      'Host: x',
      `Authorization: Bearer ${serviceToken()}`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
      'Connection: close',
    ];
    socket.write(`${head.join('\r\n')}\r\n\r\n`);
    for (let at = 0; at < body.length; at += 10_000) {
      await sleep(5);
      socket.write(body.slice(at, at + 10_000));
    }
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 201/);
  });
});

test('a service that stops does not wait for connections that have not said anything', async () => {
  const stopping = await startServiceProcess(database, {
    SHUTDOWN_DEADLINE_SECONDS: '20',
    NODE_NAME: 'stopping',
  });
  port = Number(new URL(stopping.url).port);
  await Promise.all(Array.from({ length: 500 }, () => open()));
  stopping.kill('SIGTERM');
  expect(await stopping.ended).toEqual({ code: 0, signal: null });
});
