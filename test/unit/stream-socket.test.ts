import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { byeFrame, contentOf } from '../../src/delivery/frames.ts';
import { StreamSocket } from '../../src/delivery/socket.ts';

/* On real sockets: who gets the last word, and that each socket has an end. */

let server: Server;
beforeAll(async () => {
  // As the sockets of an HTTP server are.
  server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterAll(() => void server.close());

async function pair(): Promise<{ here: Socket; client: Socket }> {
  const { port } = server.address() as AddressInfo;
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true }).on('error', () => undefined);
  const [here] = await accepted;
  return { here: here.on('error', () => undefined), client };
}

const BYE = byeFrame('over-limit', 1_000);
/** Shorter than a test, and so long that what takes no time is over by then, also on a busy machine. */
const SOON_MS = 1_000;

describe('the end of a stream', () => {
  test.each([
    { version: '1.1', chunked: true, said: `${BYE}0\r\n\r\n` },
    { version: '1.0', chunked: false, said: String(contentOf(BYE)) },
  ])('is the last word and the end of the body, as HTTP/$version has it', async ({ chunked, said }) => {
    const { here, client } = await pair();
    let text = '';
    client.setEncoding('utf8').on('data', (part: string) => (text += part));
    const ended = once(client, 'end');
    here.resume();
    new StreamSocket(here, chunked).end(BYE);
    await ended;
    expect(text).toBe(said);
    // Nobody has to be waited for when the client closes, too.
    const closed = once(here, 'close');
    client.end();
    await closed;
  });

  test.each([
    ['does not close', (client: Socket) => client.resume(), 0],
    ['does not read', (client: Socket) => client.pause(), 64 * 1024 * 1024],
  ] as const)('is also that of the socket of a client that %s', async (_what, behave, waiting) => {
    const { here, client } = await pair();
    behave(client);
    // More than the kernel takes.
    if (waiting > 0) here.write(Buffer.alloc(waiting));
    const closed = once(here, 'close');
    new StreamSocket(here, true).end(BYE, SOON_MS);
    expect(here.destroyed).toBe(false);
    await closed;
    expect(here.writableFinished).toBe(waiting === 0);
    client.destroy();
  });
});
