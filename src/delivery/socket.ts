import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyReply } from 'fastify';
import { contentOf, greeting, LAST_CHUNK, type Frame } from './frames.ts';

/** Sockets of clients who left that are closed in one turn of the event loop: less than a millisecond of work. */
const CLOSED_AT_ONCE = 16;
const left: Socket[] = [];

/**
 * Closes a socket whose client has left. When thousands leave in the same moment, everybody else would wait for all of
 * these to be closed: 5,000 take 150 ms of system calls.
 */
function closeLater(this: Socket): void {
  if (left.push(this) === 1) setImmediate(closeSome);
}

function closeSome(): void {
  for (const socket of left.splice(0, CLOSED_AT_ONCE)) socket.destroy();
  if (left.length > 0) setImmediate(closeSome);
}

/**
 * Takes a socket away from the HTTP server, so that a stream holds neither parser, request nor response, and a frame that
 * was encoded once is written to all sockets as it is.
 *
 * Node lets go of them when a response is finished (`finish`) and of the parser when the socket is closed (`close`): so it is told
 * that both has happened. `detachSocket` alone leaves all three in the reach of the server, for as long as the stream is open.
 */
function takeSocket(response: ServerResponse): Socket | undefined {
  const { socket } = response;
  if (socket === null || socket.destroyed) return undefined;
  // Whoever listens for that means that the request is over, and a stream has just begun.
  response.removeAllListeners('close');
  response.emit('finish');
  const closing = socket.listeners('close');
  // A second request on this connection would otherwise be answered in the midst of the stream. All at once: by name
  // each leaves its place in a table that never shrinks, half a kilobyte for every stream.
  socket.removeAllListeners();
  // What a client sends from here on is dropped. Listening takes the handle back from the parser.
  socket.on('data', ignore);
  for (const closed of closing) Reflect.apply(closed, socket, [false]);
  socket.setTimeout(0);
  socket.setNoDelay(true);
  // The socket is half-open by Node's choice for HTTP: without this a client's FIN would leave it open for ever.
  socket.on('end', closeLater);
  // `close` follows every error, and is where a stream ends.
  socket.on('error', ignore);
  // Reading may stand still, because of the requests that came behind this one. Nothing, pushed, has it begin anew.
  socket.push('');
  socket.resume();
  return socket;
}

const ignore = (): void => undefined;

/** `no-transform`: a proxy that gzips a stream holds its events back (RFC 9111 § 5.2.2.6). `x-accel-buffering` says the same to nginx. */
export const STREAM_HEADERS = {
  'content-type': 'text/event-stream',
  'cache-control': 'no-store, no-transform',
  'x-accel-buffering': 'no',
  connection: 'close',
};

const STREAM_HEADER_LINES = Object.entries(STREAM_HEADERS)
  .map(([name, value]) => `${name}: ${value}\r\n`)
  .join('');

/** What hooks have put on the reply: CORS and the request id, checked for CR and LF. It goes out with the stream or never. */
function otherHeaderLines(reply: FastifyReply): string {
  let lines = '';
  for (const [name, value] of Object.entries(reply.getHeaders()))
    if (value !== undefined && !(name in STREAM_HEADERS)) lines += `${name}: ${String(value)}\r\n`;
  return lines;
}

/** How long a client may take to read what was written before its stream ended, and to close in its turn, in ms. */
const LINGER_MS = 5_000;

/** The socket of a stream, which HTTP has nothing to do with any more. */
export class StreamSocket {
  /** `chunked`: the client knows chunks, since its HTTP is 1.1. */
  constructor(
    readonly socket: Socket,
    private readonly chunked: boolean,
  ) {}

  write(frame: Frame): void {
    this.socket.write(this.chunked ? frame : contentOf(frame));
  }

  /**
   * Says the last word, and closes. What the client has not read by then, or if it does not close, is given up: there is no
   * other end to a socket whose client does nothing.
   *
   * @param lingerMs at most 5 s
   */
  end(frame: Frame, lingerMs: number = LINGER_MS): void {
    const { socket } = this;
    socket.cork();
    this.write(frame);
    if (this.chunked) socket.write(LAST_CHUNK);
    socket.end();
    const timer = setTimeout(() => socket.destroy(), Math.max(0, Math.min(lingerMs, LINGER_MS))).unref();
    socket.once('close', () => clearTimeout(timer));
  }
}

/** Answers 200 with an event stream and gives the socket for its events; undefined when the client has gone. */
export function openEventStream(reply: FastifyReply, retryMs: number): StreamSocket | undefined {
  reply.hijack();
  const chunked = reply.request.raw.httpVersionMinor > 0;
  const socket = takeSocket(reply.raw);
  if (socket === undefined) return undefined;
  const framing = chunked ? 'transfer-encoding: chunked\r\n' : '';
  const headers = `${STREAM_HEADER_LINES}${framing}date: ${new Date().toUTCString()}\r\n${otherHeaderLines(reply)}`;
  const stream = new StreamSocket(socket, chunked);
  socket.cork();
  socket.write(`HTTP/1.1 200 OK\r\n${headers}\r\n`);
  stream.write(greeting(retryMs));
  socket.uncork();
  return stream;
}
