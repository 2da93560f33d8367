import { ServerResponse, STATUS_CODES, type IncomingMessage, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { errorCode } from '../postgres/errors.ts';
import { Problem } from '../core/errors.ts';
import { METHODS, PROBLEM_TYPE } from './problem.filter.ts';

/* What Node refuses before it is a request, answered in the form of every other error (RFC 9457). */

/** Time for an answer to arrive, in ms: closing a socket on which something is unread makes its client throw the answer away. */
const LINGER_MS = 1_000;

/** Of Node's parser and clock, by their code; what is not here is malformed. */
const REFUSALS: Record<string, Problem> = {
  HPE_HEADER_OVERFLOW: new Problem('headers_too_large', 'The head of the request has more than 16 KiB.'),
  HPE_CHUNK_EXTENSIONS_OVERFLOW: new Problem('malformed_request', 'The chunks of the body carry too much.'),
  ERR_HTTP_REQUEST_TIMEOUT: new Problem('request_timeout', 'The rest of the request did not come in time.'),
};
const MALFORMED = new Problem('malformed_request', 'What came is no request of HTTP/1.1.');
const NO_TUNNEL = new Problem('method_not_allowed', 'This service is no proxy.', {
  headers: { allow: METHODS },
});
const NO_SUCH_EXPECTATION = new Problem('expectation_failed', 'Only `100-continue` can be expected.');

export function refuseBadHttp(server: Server): void {
  server.removeAllListeners('clientError');
  server.on('clientError', refuseBytes);
  server.on('connect', (_request: IncomingMessage, socket: Socket) => refuseTunnel(socket));
  server.on('checkExpectation', (_request: IncomingMessage, response: ServerResponse) => {
    const { body, headers } = written(NO_SUCH_EXPECTATION);
    response.writeHead(NO_SUCH_EXPECTATION.status, headers).end(body);
  });
}

function refuseBytes(error: unknown, socket: Socket): void {
  const inFlight = responseOn(socket);
  // Nobody is there, or has said anything: a connection that a browser opened in advance.
  if (!socket.writable || socket.bytesRead === 0 || inFlight?.headersSent === true) socket.destroy();
  // What is being answered came before, and is complete; its answer is the last.
  else if (inFlight?.req.complete === true) inFlight.shouldKeepAlive = false;
  else answer(socket, REFUSALS[errorCode(error) ?? ''] ?? MALFORMED);
}

/** Node has let go of the socket by now, but for what is being answered on it: that came before, and its answer is the last. */
function refuseTunnel(socket: Socket): void {
  const inFlight = responseOn(socket);
  if (inFlight === undefined) return answer(socket, NO_TUNNEL);
  socket.on('data', () => undefined).on('error', () => undefined);
  inFlight.shouldKeepAlive = false;
  // Its head, which says so, may be on its way already.
  inFlight.once('finish', () => socket.destroySoon());
}

/** What is being answered on this socket. Node's types do not know of it. */
function responseOn(socket: Socket): ServerResponse | undefined {
  const response: unknown = Reflect.get(socket, '_httpMessage');
  return response instanceof ServerResponse ? response : undefined;
}

/** Says it, and closes the connection when that has arrived. Node's parser does not hear of the rest. */
function answer(socket: Socket, problem: Problem): void {
  const { body, headers } = written(problem);
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket
    .removeAllListeners('data')
    .removeAllListeners('end')
    .on('data', () => undefined)
    .on('error', () => undefined)
    .once('end', () => socket.destroy())
    .end(`HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}\r\n${lines.join('')}\r\n${body}`);
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}

function written(problem: Problem): { body: string; headers: Record<string, string> } {
  const body = JSON.stringify(problem);
  return {
    body,
    headers: {
      'content-type': PROBLEM_TYPE,
      'content-length': String(Buffer.byteLength(body)),
      connection: 'close',
      ...problem.headers,
    },
  };
}
