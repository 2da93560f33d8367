import { once } from 'node:events';
import { Agent, get as httpGet, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { usersOf } from '../load/sockets.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { startServiceProcess, type ServiceProcess } from '../support/service-process.ts';
import { serviceToken } from '../support/tokens.ts';

let database: TestDatabase;
let service: ServiceProcess;
let port: number;
beforeAll(async () => {
  database = await createDatabase();
  service = await startServiceProcess(database);
  port = Number(new URL(service.url).port);
});
afterAll(async () => {
  await service.end();
  await database.drop();
});

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
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const ask = () =>
      new Promise<IncomingMessage>((resolve, reject) => {
        httpGet(`${service.url}/health/live`, { agent }, (response) => {
          response.resume().on('end', () => resolve(response));
        }).on('error', reject);
      });
    await ask();
    const crowd = await Promise.all(Array.from({ length: 1_000 }, () => open()));
    let answered = 0;
    const all = Promise.all(crowd.map((socket) => text(socket).then(() => (answered += 1))));
    for (const socket of crowd) socket.write(LIVE);
    // It is asked after all of them and waits for few of them.
    await ask();
    expect(answered).toBeLessThan(300);
    await all;
    expect(answered).toBe(1_000);
    agent.destroy();
  });

  test('and want streams do not hold up a new one that wants something else', async () => {
    const crowd = await Promise.all(Array.from({ length: 1_000 }, () => open()));
    const late = await open();
    const requests = usersOf('crowd', 1_000).map(({ request }) => request);
    let begun = 0;
    const all = Promise.all(crowd.map((socket) => once(socket, 'data').then(() => (begun += 1))));
    crowd.forEach((socket, n) => socket.write(requests[n] ?? ''));
    late.write(LIVE);
    expect(await text(late)).toMatch(/^HTTP\/1\.1 200/);
    expect(begun).toBeLessThan(500);
    await all;
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
    // Waited for one after the other, a hundred a second, they would take half a minute.
    const half = await Promise.all(Array.from({ length: 4_000 }, () => open()));
    for (const each of half) each.write(LIVE.slice(0, 1));
    const socket = await open();
    const asked = performance.now();
    socket.write(LIVE);
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 200/);
    const answered = performance.now();
    // Nor are they forgotten; and the last of them take as long as a machine like this one needs. All of them might take
    // longer than a head may.
    const whole = half.slice(-300);
    for (const each of whole) each.write(LIVE.slice(1));
    const answers = await Promise.all(whole.map((each) => text(each)));
    const served = performance.now();
    expect(answers.filter((answer) => answer.startsWith('HTTP/1.1 200'))).toHaveLength(300);
    expect((answered - asked) / (served - answered)).toBeLessThan(10);
    for (const each of half) each.destroy();
  });

  test('from one address do not hold up one from another', async () => {
    const crowd = await Promise.all(Array.from({ length: 1_000 }, () => open()));
    const late = await open('127.0.0.2');
    let answered = 0;
    const all = Promise.all(crowd.map((socket) => text(socket).then(() => (answered += 1))));
    for (const socket of crowd) socket.write(LIVE);
    late.write(LIVE);
    expect(await text(late)).toMatch(/^HTTP\/1\.1 200/);
    expect(answered).toBeLessThan(500);
    await all;
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
    const greedy = await open();
    let answered = 0;
    const request = `GET /health/live HTTP/1.1\r\nHost: x\r\nPadding: ${'x'.repeat(1_000)}\r\n\r\n`;
    greedy.setEncoding('latin1').on('data', (answers: string) => {
      answered += answers.split('HTTP/1.1 200').length - 1;
    });
    greedy.write(request.repeat(4_000));
    await once(greedy, 'data');
    const socket = await open();
    socket.write(LIVE);
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 200/);
    expect(answered).toBeLessThan(2_000);
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
