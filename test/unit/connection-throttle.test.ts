import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { expect, test } from '@jest/globals';
import { ConnectionThrottle } from '../../src/http/connection-throttle.ts';

const REQUESTS = 200;
/** For so long the event loop is at work between two turns, in ms; a quarter of it is what the throttle owes for it. */
const BUSY_MS = 50;
const OWED = BUSY_MS / 4;

test('however rare turns of a busy event loop are, so many first requests are begun for the time between them', async () => {
  const throttle = new ConnectionThrottle();
  const server = createServer((request, response) => throttle.admit(request, () => response.end()));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo;
  // Node takes one of them in a turn.
  const sockets = [];
  for (let n = 0; n < REQUESTS; n += 1) {
    const taken = once(server, 'connection');
    sockets.push(connect(port, '127.0.0.1'));
    await taken;
  }
  let turns = 0;
  const busy = setInterval(() => {
    turns += 1;
    for (const began = performance.now(); performance.now() - began < BUSY_MS;);
  });
  for (const socket of sockets) socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  const answers = await Promise.all(sockets.map((socket) => text(socket)));
  clearInterval(busy);
  server.close();
  expect(answers.filter((answer) => answer.startsWith('HTTP/1.1 200'))).toHaveLength(REQUESTS);
  // Sockets that are read and answers that are written take some turns of their own.
  expect(turns).toBeLessThan((3 * REQUESTS) / OWED);
});
