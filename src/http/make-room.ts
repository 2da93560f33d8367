import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Logger } from '@nestjs/common';

/** One line at most in this time, in ms. */
const QUIET_MS = 10_000;

const logger = new Logger('Connections');

/** What a server has for connections. */
export interface Room {
  /** How many it may have. */
  readonly most: number;
  /** How long each may wait for its client when there are no more, in ms. */
  readonly patience: number;
}

/**
 * Gives a server a number of connections. When it has them all, each new one takes the place of one that waits for its client:
 * for the rest of a request, for the next one, or for an answer to be read. So whoever opens connections and says nothing
 * keeps nobody out, and whoever sends a request at once is not touched.
 *
 * It is the oldest of the address that has most of them. Where that has not waited for `patience`, the new one is closed.
 *
 * Call it when all other listeners of `request` are there.
 */
export function makeRoom(server: Server, { most, patience }: Room): void {
  const waiting = new Waiting();
  /** Requests of a connection whose answer is not made. */
  const underWay = new WeakMap<Socket, number>();
  const report = quietly();

  const closeOne = (): void => {
    const oldest = waiting.oldest(patience);
    if (oldest === undefined) return;
    report('there are as many as may be: this one said nothing');
    oldest.destroy();
    // Here, not when it is told that it is closed: the next one takes another's place.
    waiting.delete(oldest);
  };

  server.maxConnections = most;
  server.on('drop', () => {
    report('there are as many as may be: this one had just come');
    closeOne();
  });
  server.on('connection', (socket: Socket) => {
    waiting.add(socket);
    // A stream that takes the socket over says so, too (src/delivery/socket.ts), and waits for nothing.
    socket.on('close', () => {
      waiting.delete(socket);
      underWay.delete(socket);
    });
    server.getConnections((_error, connections) => {
      if (connections >= most) closeOne();
    });
  });
  server.prependListener('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
    // Cut off by what came in the same packet (src/http/in-order.ts); a thousand more may be in it.
    if (socket.destroyed) return;
    waiting.delete(socket);
    underWay.set(socket, (underWay.get(socket) ?? 0) + 1);
    response.once('prefinish', () => {
      const left = (underWay.get(socket) ?? 1) - 1;
      underWay.set(socket, left);
      if (left === 0 && !socket.destroyed) waiting.add(socket);
    });
  });
  server.on('listening', () =>
    // No descriptor is left, for example. Without a listener it would end the process.
    server.on('error', ({ message }) => report(message)),
  );
}

/** Connections that wait for their client, and since when, by the address that they come from. */
class Waiting {
  readonly #since = new Map<string, Map<Socket, number>>();

  add(socket: Socket): void {
    // Node remembers it when the socket is closed.
    const address = socket.remoteAddress ?? '';
    const own = this.#since.get(address) ?? new Map<Socket, number>();
    this.#since.set(address, own.set(socket, performance.now()));
  }

  delete(socket: Socket): void {
    const address = socket.remoteAddress ?? '';
    const own = this.#since.get(address);
    if (own?.delete(socket) === true && own.size === 0) this.#since.delete(address);
  }

  /** Of the address that has most; undefined if that has not waited for so long. */
  oldest(patience: number): Socket | undefined {
    let most = new Map<Socket, number>();
    for (const own of this.#since.values()) if (own.size > most.size) most = own;
    for (const [socket, since] of most) return performance.now() - since < patience ? undefined : socket;
    return undefined;
  }
}

/** Says why connections are closed, and how many. */
function quietly(): (why: string) => void {
  let closed = 0;
  let said = -Infinity;
  return (why) => {
    closed += 1;
    if (performance.now() - said < QUIET_MS) return;
    logger.warn({ msg: 'connections are closed', closed, why });
    said = performance.now();
    closed = 0;
  };
}
