import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

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

/**
 * Begins a request when it is its turn to be answered: when those before it on its connection were.
 *
 * Node begins all that came in one packet at once, and only keeps the answers in order. A stream takes its socket over,
 * so it came between these answers, or was itself never sent, and what was sent behind it was done although nobody
 * would hear of it. One at a time a stream is the last of its connection by itself, because it does not finish, and a
 * client that pipelines (RFC 9112 § 9.3.2) has one request under way, as any other.
 *
 * Call it when all listeners of `request` are there.
 */
export function serveInOrder(server: Server): void {
  const listeners = server.listeners('request');
  const waiting = new WeakMap<Socket, number>();

  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    for (const listener of listeners) Reflect.apply(listener, server, [request, response]);
  };

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

  const begin = (request: IncomingMessage, response: ServerResponse): void => {
    const { socket } = request;
    // A stream has taken it over in this very moment, or its client has gone.
    if (response.destroyed || socket.destroyed) return;
    Reflect.deleteProperty(request, 'destroy');
    const left = (waiting.get(socket) ?? 1) - 1;
    waiting.set(socket, left);
    if (left === MOST_WAITING - 1) socket.off('resume', pause).resume();
    serve(request, response);
  };

  server.removeAllListeners('request');
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    // Node gives a response its socket when it is its turn.
    if (response.socket !== null) return serve(request, response);
    // It was cut off by what came in the same packet.
    if (request.socket.destroyed) return;
    wait(request);
    // One in a turn of the event loop: where answers are made at once, nobody else would be served between them.
    response.once('socket', () => setImmediate(begin, request, response));
  });
}

function pause(this: Socket): void {
  this.pause();
}

function itself(this: IncomingMessage): IncomingMessage {
  return this;
}
