import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Params, PARAMS_PROVIDER_TOKEN, PinoLogger } from 'nestjs-pino';
import type { DestinationStream } from 'pino';
import { AppModule } from './app.module.ts';
import type { Config } from '../core/config.ts';
import { refuseBadHttp } from '../http/bad-http.ts';
import { admitGradually } from '../http/connection-gate.ts';
import { deadlinesOf, endConnections, serverOptions, type Deadlines } from '../http/deadlines.ts';
import { serveInOrder } from '../http/in-order.ts';
import { acceptJson } from '../http/json-body.ts';
import { REQUEST_ID_HEADER } from '../telemetry/request-id.ts';
import { ServiceLogger } from '../telemetry/service-logger.ts';
import { makeRoom } from '../http/make-room.ts';
import { sendProblem, toProblem } from '../http/problem.filter.ts';

/** Connections beside those of the streams that a node may have: requests, and streams that are being refused. */
const BESIDE_STREAMS = 1_000;

interface AppOptions {
  /** Where log lines go instead of standard output. */
  readonly logs?: DestinationStream | undefined;
  readonly deadlines?: Deadlines;
  /** Ends what waits while the service starts, with an AbortError. */
  readonly stop?: AbortSignal;
}

/** Builds the service; the caller listens and closes. The URLs of the database must be set, and it migrated. */
export async function createApp(
  config: Config,
  { logs, deadlines = deadlinesOf(config), stop = new AbortController().signal }: AppOptions = {},
): Promise<NestFastifyApplication> {
  const adapter = new FastifyAdapter({
    ...serverOptions(deadlines),
    // Streams are ended one by one with a `bye`; what is idle then may go.
    forceCloseConnections: 'idle',
    // The longest id that stands in a path has 256 characters, of which each may count twice in UTF-16.
    routerOptions: { maxParamLength: 512 },
    // Its own 503 has neither our form nor Retry-After; a caller who comes too late is told so by the route.
    return503OnClosing: false,
    // Whose X-Forwarded-For is believed; by default nobody's.
    trustProxy: config.TRUSTED_PROXIES.length > 0 ? [...config.TRUSTED_PROXIES] : false,
    // Logging is ours (src/telemetry), and so is the request id.
    logger: false,
    // What Fastify refuses before any route is found; no filter of ours would hear of it.
    frameworkErrors: (error: unknown, request: FastifyRequest, reply: FastifyReply) =>
      sendProblem(reply.header(REQUEST_ID_HEADER, request.id), toProblem(error, request.id)),
  });
  const app = await NestFactory.create<NestFastifyApplication>(AppModule.with(config, stop, logs), adapter, {
    bodyParser: false,
    bufferLogs: true,
    abortOnError: false,
  });
  app.useLogger(new ServiceLogger(await app.resolve(PinoLogger), app.get<Params>(PARAMS_PROVIDER_TOKEN)));
  // By itself only once all has started: what the start waits for is to be read while it waits.
  app.flushLogs();
  acceptJson(adapter.getInstance(), config);
  endConnections(adapter.getInstance(), deadlines, config);
  refuseBadHttp(adapter.getHttpServer());
  admitGradually(adapter.getHttpServer());
  serveInOrder(adapter.getHttpServer());
  makeRoom(adapter.getHttpServer(), {
    most: config.MAX_CONNECTIONS + BESIDE_STREAMS,
    patience: deadlines.patience,
  });
  return app;
}
