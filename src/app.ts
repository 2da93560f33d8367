import 'reflect-metadata';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { Logger as PinoLogger } from 'nestjs-pino';
import type { DestinationStream } from 'pino';
import { AppModule } from './app.module.ts';
import type { Config } from './config.ts';
import { acceptJson } from './json-body.ts';
import { sendProblem, toProblem } from './problem.filter.ts';

/**
 * Builds the service; the caller listens and closes. `config.DATABASE_URL` must be set and the database migrated.
 * `logs`: where log lines go instead of standard output.
 */
export async function createApp(config: Config, logs?: DestinationStream): Promise<NestFastifyApplication> {
  const adapter = new FastifyAdapter({
    bodyLimit: config.MAX_REQUEST_BYTES,
    // Streams are ended one by one with a `bye`; what is idle then may go.
    forceCloseConnections: 'idle',
    // Logging is ours (src/logging), and so is the request id.
    logger: false,
    // What Fastify refuses before any route is found; no filter of ours would hear of it.
    frameworkErrors: (error, _request, reply) => sendProblem(reply, toProblem(error, new Logger('fastify'))),
  });
  const app = await NestFactory.create<NestFastifyApplication>(AppModule.with(config, logs), adapter, {
    bodyParser: false,
    bufferLogs: true,
    abortOnError: false,
  });
  app.useLogger(app.get(PinoLogger));
  acceptJson(adapter.getInstance());
  if (config.CORS_ORIGINS.length > 0) {
    app.enableCors({
      origin: config.CORS_ORIGINS,
      methods: ['GET', 'POST', 'DELETE'],
      allowedHeaders: [
        'Authorization',
        'Content-Type',
        'Last-Event-ID',
        'Idempotency-Key',
        'X-Request-Id',
        'traceparent',
        'Cache-Control',
      ],
      exposedHeaders: ['Location', 'Retry-After', 'Idempotency-Replayed', 'X-Request-Id', 'WWW-Authenticate'],
      maxAge: 600,
    });
  }
  return app;
}
