import type { IncomingMessage, ServerResponse } from 'node:http';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { Cors } from '../auth/cors.ts';
import { TokenGuard } from '../auth/token.guard.ts';
import type { Config } from '../core/config.ts';
import { refuseBadHttp } from '../http/problems.ts';
import { ConnectionThrottle, wantsStream } from '../http/connection-throttle.ts';
import {
  endUnread,
  endUnreadPages,
  limitConnections,
  serveInOrder,
  type Deadlines,
} from '../http/connections.ts';
import { BodyReader } from '../http/json-body.ts';
import { PublishAdmission } from '../publishing/publish-admission.ts';
import { RequestLog, requestIdOf } from '../telemetry/logging.ts';

/** Connections beside those of the streams that a node may have: requests, and streams that are being refused. */
const BESIDE_STREAMS = 1_000;

/**
 * What a request passes from its connection to its handler, and its answer on the way back: everything that listens or hooks in
 * is here, in its order.
 *
 * Behind the last hook Nest asks TokenGuard and calls the handler. What is thrown is rendered by ProblemFilter
 * (src/http/problems.ts), on the route of streams by PassingTroubleFilter (src/delivery/stream.controller.ts).
 */
export function buildPipeline(app: NestFastifyApplication, config: Config, deadlines: Deadlines): void {
  const fastify = app.getHttpAdapter().getInstance();
  const { server } = fastify;

  // 1. The connection: how many there may be, and what Node refuses before it is a request.
  const noteRequest = limitConnections(server, {
    most: config.MAX_CONNECTIONS + BESIDE_STREAMS,
    patience: deadlines.patience,
  });
  refuseBadHttp(server);

  // 2. The request, before Fastify has it: one at a time of a connection, and first ones only while there is time for them.
  const throttle = new ConnectionThrottle();
  const toFastify = server.listeners('request');
  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    // A timer for each stream would be kept for as long as it is open; and they are answered at once.
    if (!wantsStream(request)) request.socket.setTimeout(deadlines.silence);
    endUnread(response, deadlines.answer);
    for (const listener of toFastify) Reflect.apply(listener, server, [request, response]);
  };
  const serveNext = serveInOrder((request, response) =>
    throttle.admit(request, () => serve(request, response)),
  );
  server.removeAllListeners('request');
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    noteRequest(request, response);
    serveNext(request, response);
  });

  // 3. Its head: an id and a line in the log; which pages may call; who is calling, and whether that one may publish now.
  const log = app.get(RequestLog);
  const cors = app.get(Cors);
  const guard = app.get(TokenGuard);
  const admission = app.get(PublishAdmission);
  fastify.setGenReqId((raw) => requestIdOf(raw.headers));
  fastify.addHook('onRequest', (request, reply, done) => {
    log.begun(request, reply);
    if (!cors.answersPreflight(request, reply)) done();
  });
  fastify.addHook('preParsing', async (request, reply) => {
    await guard.beforeBody(request, reply);
    await admission.beforeBody(request);
  });

  // 4. Its body.
  const bodies = new BodyReader(config);
  fastify.removeAllContentTypeParsers();
  // What it throws becomes the answer.
  fastify.addContentTypeParser('application/json', bodies.read);

  // 5. The answer.
  fastify.addHook('onSend', async (request, reply, payload) => {
    bodies.release(request);
    endUnreadPages(payload, reply.raw, deadlines.answer);
    await admission.beforeAnswer(request, reply);
    return payload;
  });

  // 6. The end. A browser opens connections that it may need and says nothing on them, and a client may send half a request:
  // neither is idle to Node, and both would hold a stop until its deadline. What is under way gets a quarter of it.
  fastify.addHook('preClose', (done) => {
    setTimeout(() => server.closeAllConnections(), config.SHUTDOWN_DEADLINE_SECONDS * 250).unref();
    done();
  });
}
