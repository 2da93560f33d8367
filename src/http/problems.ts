import { Catch, HttpException, Logger, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { databaseUnavailable, errorCode, isUnavailable } from '../postgres/errors.ts';
import { type ErrorCode, Problem } from '../core/errors.ts';
import { ServerResponse, STATUS_CODES, type IncomingMessage, type Server } from 'node:http';
import type { Socket } from 'node:net';
/** Errors of Fastify and Nest that have a meaning for the caller, by Fastify's code or by HTTP status. */
const FOREIGN: Record<string, [ErrorCode, string]> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['unsupported_media_type', 'The body must be application/json.'],
  FST_ERR_CTP_EMPTY_TYPE: ['unsupported_media_type', 'Content-Type is missing; send application/json.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['malformed_json', 'The body is not as long as Content-Length says.'],
  // Of the methods that nothing here takes, this alone is asked for its body first.
  FST_ERR_ROUTE_MISSING_CONTENT_TYPE: ['not_found', 'No route has this path.'],
  FST_ERR_BAD_URL: ['not_found', 'The path is not a valid URL path.'],
  FST_ERR_MAX_PARAM_LENGTH: ['not_found', 'A part of the path is longer than any id.'],
  404: ['not_found', 'No route has this path.'],
};

const ROUTED = ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE'] as const;
/** For `Allow`, where there is no path to ask. */
const METHODS = ROUTED.join(', ');

const PROBLEM_TYPE = 'application/problem+json; charset=utf-8';

/** Renders every error as RFC 9457. What is not a Problem is a fault of the service: logged with its cause, answered without it. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const problem = otherMethod(error, request) ?? toProblem(error, request.id);
    sendProblem(http.getResponse(), problem);
  }
}

export function sendProblem(reply: FastifyReply, problem: Problem): void {
  void reply.status(problem.status).headers(problem.headers).type(PROBLEM_TYPE).send(JSON.stringify(problem));
}

const logger = new Logger('ProblemFilter');

/** `requestId`: what the log line of an unexpected error is found by. */
export function toProblem(error: unknown, requestId: string): Problem {
  if (error instanceof Problem) return error;
  if (isUnavailable(error)) return databaseUnavailable(error);
  const known = FOREIGN[errorCode(fastifyError(error)) ?? ''] ?? FOREIGN[statusOf(error)];
  if (known !== undefined) return new Problem(known[0], known[1], { cause: error });
  logger.error({ msg: 'a request failed unexpectedly', requestId, err: error });
  return new Problem('internal', 'The service could not answer. Nothing in your request explains it.', {
    cause: error,
  });
}

/** A path without parameters that other methods have a route for. */
function otherMethod(error: unknown, { routeOptions, server, url }: FastifyRequest): Problem | undefined {
  if (!isNoRoute(error) || routeOptions.url !== undefined) return undefined;
  const path = url.split('?', 1)[0] ?? '';
  const allowed = ROUTED.filter((method) => server.hasRoute({ method, url: path }));
  if (allowed.length === 0) return undefined;
  return new Problem('method_not_allowed', 'The path does not take this method.', {
    headers: { allow: allowed.join(', ') },
  });
}

const isNoRoute = (error: unknown): boolean =>
  statusOf(error) === 404 || errorCode(fastifyError(error)) === 'FST_ERR_ROUTE_MISSING_CONTENT_TYPE';

/** Nest wraps what Fastify found. */
const fastifyError = (error: unknown): unknown => (error instanceof HttpException ? error.cause : error);

const statusOf = (error: unknown): number => (error instanceof HttpException ? error.getStatus() : 500);

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
