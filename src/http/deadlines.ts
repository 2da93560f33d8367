import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import type { Config } from '../core/config.ts';
import { wantsStream } from './connection-gate.ts';

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
  // Who leaves Host out is told by src/auth/early-checks.ts: Node's refusal has no body.
  http: {
    requestTimeout: request,
    headersTimeout: head,
    connectionsCheckingInterval: look,
    requireHostHeader: false,
  },
});

/** What the options of the server have no word for. */
export function endConnections(
  fastify: FastifyInstance,
  { answer, silence }: Deadlines,
  config: Pick<Config, 'SHUTDOWN_DEADLINE_SECONDS'>,
): void {
  fastify.server.prependListener('request', (request: IncomingMessage) => {
    // A timer for each stream would be kept for as long as it is open; and they are answered at once.
    if (!wantsStream(request)) request.socket.setTimeout(silence);
  });
  endUnreadAnswers(fastify, answer);
  // A browser opens connections that it may need and says nothing on them, and a client may send half a request: neither
  // is idle to Node, and both would hold a stop until its deadline. What is under way gets a quarter of it.
  fastify.addHook('preClose', (done) => {
    setTimeout(() => fastify.server.closeAllConnections(), config.SHUTDOWN_DEADLINE_SECONDS * 250).unref();
    done();
  });
}

/** Whoever takes a byte now and then is never silent, and keeps the rest in memory. */
function endUnreadAnswers(fastify: FastifyInstance, withinMs: number): void {
  fastify.server.prependListener('request', (_request, response: ServerResponse) => {
    response.once('prefinish', () => {
      const { socket } = response;
      if (socket === null || socket.writableLength === 0) return;
      const timer = setTimeout(() => socket.destroy(), withinMs);
      response.once('close', () => clearTimeout(timer));
    });
  });
  // What is sent page by page (src/history/ndjson.ts) pauses until the client has taken a page.
  fastify.addHook('onSend', (_request, { raw: response }, payload, done) => {
    if (payload instanceof Readable) {
      let timer: NodeJS.Timeout | undefined;
      payload.on('pause', () => {
        // It pauses for the last time when the answer is over.
        if (!response.writableNeedDrain) return;
        clearTimeout(timer);
        timer = setTimeout(() => response.destroy(), withinMs);
      });
      for (const taken of ['drain', 'close']) response.on(taken, () => clearTimeout(timer));
    }
    done();
  });
}
