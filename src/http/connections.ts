import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { Logger } from '@nestjs/common';
import type { Config } from '../core/config.ts';
import { LogThrottle } from '../concurrency/pacing.ts';

/* How many connections there may be, how long each may take for what, and in which order its requests are served. */

/** How long a connection may take for what, in ms; then it ends. An open stream has limits of its own (src/delivery). */
export interface Deadlines {
  /** From its first byte, or from its beginning, until the head of a request is complete. */
  readonly head: number;
  /** The same until its body is. A batch of 8 MiB needs 140 KB a second for it. */
  readonly request: number;
  /** Without a request, after an answer. Longer than the 60 s of usual balancers, so that theirs counts. */
  readonly idle: number;
  /** Without a byte in either direction while a request is served. */
  readonly silence: number;
  /** For what is left of an answer when there is nothing to add to it, and for each page of one that is sent page by page. */
  readonly answer: number;
  /** Without a request, or with an answer that is not read, while there are as many connections as may be. */
  readonly patience: number;
  /** How often the first two are looked at. */
  readonly look: number;
}

export const deadlinesOf = (
  config: Pick<Config, 'DATABASE_CONNECT_TIMEOUT_MS' | 'DATABASE_STATEMENT_TIMEOUT_MS'>,
): Deadlines => ({
  head: 20_000,
  request: 60_000,
  idle: 72_000,
  // Nobody is silent for longer than that who waits for the database.
  silence: 60_000 + config.DATABASE_CONNECT_TIMEOUT_MS + config.DATABASE_STATEMENT_TIMEOUT_MS,
  answer: 120_000,
  // A client sends its request at once, and may have to wait while thousands are served that came with it.
  patience: 1_000,
  look: 5_000,
});

/** Fastify's and Node's words for them. */
export const serverOptions = ({ head, request, idle, look }: Deadlines) => ({
  requestTimeout: request,
  keepAliveTimeout: idle,
  // Who leaves Host out is told by TokenGuard: Node's refusal has no body.
  http: {
    requestTimeout: request,
    headersTimeout: head,
    connectionsCheckingInterval: look,
    requireHostHeader: false,
  },
});

/** Whoever takes a byte now and then is never silent, and keeps the rest in memory. */
export function endUnread(response: ServerResponse, withinMs: number): void {
  response.once('prefinish', () => {
    const { socket } = response;
    if (socket === null || socket.writableLength === 0) return;
    const timer = setTimeout(() => socket.destroy(), withinMs);
    response.once('close', () => clearTimeout(timer));
  });
}

/** The same for an answer that is sent page by page: it pauses until the client has taken a page. */
export function endUnreadPages(payload: unknown, response: ServerResponse, withinMs: number): void {
  if (!(payload instanceof Readable)) return;
  let timer: NodeJS.Timeout | undefined;
  payload.on('pause', () => {
    // It pauses for the last time when the answer is over.
    if (!response.writableNeedDrain) return;
    clearTimeout(timer);
    timer = setTimeout(() => response.destroy(), withinMs);
  });
  for (const taken of ['drain', 'close']) response.on(taken, () => clearTimeout(timer));
}

/** What a server has for connections. */
interface Capacity {
  /** How many it may have. */
  readonly most: number;
  /** How long each may wait for its client when there are no more, in ms. */
  readonly patience: number;
}

/** Every connection that is closed for another one is counted; one line at most in this time, in ms, says so. */
const QUIET_MS = 10_000;

/**
 * Gives a server a number of connections. When it has them all, each new one takes the place of one that waits for its client:
 * for the rest of a request, for the next one, or for an answer to be read. So whoever opens connections and says nothing
 * keeps nobody out, and whoever sends a request at once is not touched.
 *
 * It is the oldest of the address that has most of them. Where that has not waited for `patience`, the new one is closed.
 *
 * @returns what has to be told of each request, before anything else is done with it
 */
export function limitConnections(
  server: Server,
  { most, patience }: Capacity,
): (request: IncomingMessage, response: ServerResponse) => void {
  const waiting = new Waiting();
  /** Requests of a connection whose answer is not made. */
  const underWay = new WeakMap<Socket, number>();
  const logger = new Logger('Connections');
  const throttle = new LogThrottle(QUIET_MS);
  const report = (why: string) =>
    throttle.note((closed) => logger.warn({ msg: 'connections are closed', closed, why }));

  const closeOne = (): void => {
    const oldest = waiting.oldest(patience);
    if (oldest === undefined) return;
    report('there are as many as may be: this one said nothing');
    oldest.destroy();
    // Here, not when it is told that it is closed: the next one takes another's place.
    waiting.delete(oldest);
  };

  // `dropMaxConnection` (in Node since 23.1, its types have not heard of it): else a worker (src/app/workers.ts) would hand on
  // what is too much to the next one, and that one back to it, without end.
  Object.assign(server, { maxConnections: most, dropMaxConnection: true });
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
  server.on('listening', () =>
    // No descriptor is left, for example. Without a listener it would end the process.
    server.on('error', ({ message }) => report(message)),
  );

  return ({ socket }, response) => {
    // Cut off by what came in the same packet (serveInOrder); a thousand more may be in it.
    if (socket.destroyed) return;
    waiting.delete(socket);
    underWay.set(socket, (underWay.get(socket) ?? 0) + 1);
    response.once('prefinish', () => {
      const left = (underWay.get(socket) ?? 1) - 1;
      underWay.set(socket, left);
      if (left === 0 && !socket.destroyed) waiting.add(socket);
    });
  };
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

/**
 * Requests of one connection that may wait before nothing more is read from it: else a client could fill the memory behind
 * an answer that takes its time. Up to here it is noticed at once when the client leaves.
 */
const MOST_WAITING = 16;
/**
 * One read may hold two thousand small ones, each of which takes a hundred times the memory that it took to send it. Whoever
 * sends more than this without waiting for an answer is cut off: a client that pipelines has to expect that anyway.
 */
const MOST_UNANSWERED = 128;

type Serve = (request: IncomingMessage, response: ServerResponse) => void;

/**
 * Begins a request when it is its turn to be answered: when those before it on its connection were.
 *
 * Node begins all that came in one packet at once, and only keeps the answers in order. A stream takes its socket over,
 * so it came between these answers, or was itself never sent, and what was sent behind it was done although nobody
 * would hear of it. One at a time a stream is the last of its connection by itself, because it does not finish, and a
 * client that pipelines (RFC 9112 § 9.3.2) has one request under way, as any other.
 */
export function serveInOrder(serve: Serve): Serve {
  const waiting = new WeakMap<Socket, number>();

  const wait = (request: IncomingMessage): void => {
    const { socket } = request;
    const now = (waiting.get(socket) ?? 0) + 1;
    waiting.set(socket, now);
    if (now > MOST_UNANSWERED) return void socket.destroy();
    // Whoever takes the socket over tells Node that it is closed, which would have this request destroy it.
    request.destroy = itself;
    // Node reads on as soon as a body is wanted, although that came before.
    if (now === MOST_WAITING) socket.on('resume', pause).pause();
  };

  const begin: Serve = (request, response) => {
    const { socket } = request;
    // A stream has taken it over in this very moment, or its client has gone.
    if (response.destroyed || socket.destroyed) return;
    Reflect.deleteProperty(request, 'destroy');
    const left = (waiting.get(socket) ?? 1) - 1;
    waiting.set(socket, left);
    if (left === MOST_WAITING - 1) socket.off('resume', pause).resume();
    serve(request, response);
  };

  return (request, response) => {
    // Node gives a response its socket when it is its turn.
    if (response.socket !== null) return serve(request, response);
    // It was cut off by what came in the same packet.
    if (request.socket.destroyed) return;
    wait(request);
    // One in a turn of the event loop: where answers are made at once, nobody else would be served between them.
    response.once('socket', () => setImmediate(begin, request, response));
  };
}

function pause(this: Socket): void {
  this.pause();
}

function itself(this: IncomingMessage): IncomingMessage {
  return this;
}
