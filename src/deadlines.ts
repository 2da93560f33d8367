import type { Server, ServerResponse } from 'node:http';
import { Logger } from '@nestjs/common';
import type { FastifyInstance } from 'fastify';
import type { Config } from './config.ts';

/** How long a connection may take for what, in ms; then it ends. An open stream has limits of its own (src/stream). */
export interface Deadlines {
  /** From its first byte, or from its beginning, until the head of a request is complete. */
  readonly head: number;
  /** The same until its body is. A batch of 8 MiB needs 140 KB a second for it. */
  readonly request: number;
  /** Without a request, after an answer. Longer than the 60 s of usual balancers, so that theirs counts. */
  readonly idle: number;
  /** Without a byte in either direction while a request is served. */
  readonly silence: number;
  /** For what is left of an answer when there is nothing to add to it. */
  readonly answer: number;
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
  look: 5_000,
});

/** Fastify's and Node's words for them. */
export const serverOptions = ({ head, request, idle, silence, look }: Deadlines) => ({
  requestTimeout: request,
  keepAliveTimeout: idle,
  connectionTimeout: silence,
  // Who leaves Host out is told by src/auth/early-checks.ts: Node's refusal has no body.
  http: {
    requestTimeout: request,
    headersTimeout: head,
    connectionsCheckingInterval: look,
    requireHostHeader: false,
  },
});

/** Connections beside those of the streams that a node may have: requests, and streams that are being refused. */
const BESIDE_STREAMS = 1_000;
/** One line at most in this time, in ms. */
const QUIET_MS = 10_000;

const logger = new Logger('Connections');

/** What the options of the server have no word for. */
export function endConnections(
  fastify: FastifyInstance,
  { answer }: Deadlines,
  config: Pick<Config, 'MAX_CONNECTIONS' | 'SHUTDOWN_DEADLINE_SECONDS'>,
): void {
  const { server } = fastify;
  endUnreadAnswers(server, answer);
  server.maxConnections = config.MAX_CONNECTIONS + BESIDE_STREAMS;
  reportTrouble(server);
  // A browser opens connections that it may need and says nothing on them, and a client may send half a request: neither
  // is idle to Node, and both would hold a stop until its deadline. What is under way gets a quarter of it.
  fastify.addHook('preClose', (done) => {
    setTimeout(() => server.closeAllConnections(), config.SHUTDOWN_DEADLINE_SECONDS * 250).unref();
    done();
  });
}

/** Whoever takes a byte now and then is never silent, and keeps the rest in memory. */
function endUnreadAnswers(server: Server, withinMs: number): void {
  server.prependListener('request', (_request, response: ServerResponse) => {
    response.once('prefinish', () => {
      const { socket } = response;
      if (socket === null || socket.writableLength === 0) return;
      const timer = setTimeout(() => socket.destroy(), withinMs);
      response.once('close', () => clearTimeout(timer));
    });
  });
}

/** Connections that are closed as soon as they come, since there are too many, or no descriptor is left for them. */
function reportTrouble(server: Server): void {
  let refused = 0;
  let said = -Infinity;
  const report = (why: string) => {
    refused += 1;
    if (performance.now() - said < QUIET_MS) return;
    logger.warn({ msg: 'connections are refused', refused, why });
    said = performance.now();
    refused = 0;
  };
  server.on('drop', () => report('more than MAX_CONNECTIONS and some'));
  server.on('listening', () =>
    // Without a listener it would end the process.
    server.on('error', ({ message }) => report(message)),
  );
}
