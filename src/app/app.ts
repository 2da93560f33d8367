import 'reflect-metadata';
import { APP_FILTER, NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Params, PARAMS_PROVIDER_TOKEN, PinoLogger } from 'nestjs-pino';
import type { DestinationStream } from 'pino';
import { type Config, CONFIG, Draining, INSTANCE, STOP } from '../core/config.ts';
import { deadlinesOf, serverOptions, type Deadlines } from '../http/connections.ts';
import { LoggingModule, REQUEST_ID_HEADER, ServiceLogger } from '../telemetry/logging.ts';
import { buildPipeline } from './pipeline.ts';
import { Shutdown } from './shutdown.ts';
import { ProblemFilter, sendProblem, toProblem } from '../http/problems.ts';
import { Global, Module, type DynamicModule } from '@nestjs/common';
import { AdminModule } from '../admin/tenants.controller.ts';
import { AuthModule } from '../auth/token.guard.ts';
import { ChangeFeedModule } from '../cluster/change-feed.ts';
import { DatabaseModule } from '../postgres/database.module.ts';
import { DocsModule } from '../openapi/docs.controller.ts';
import { HealthModule } from '../health/health.controller.ts';
import { InboxModule } from '../inbox/inbox.controller.ts';
import { ReceiptsModule } from '../receipts/receipts.ts';
import { LogModule } from '../log/ingest.ts';
import { MaintenanceModule } from '../maintenance/maintenance.ts';
import { MetricsModule } from '../telemetry/metrics-endpoint.ts';
import { HistoryModule } from '../history/history.controller.ts';
import { PublishingModule } from '../publishing/publish.controller.ts';
import { PrivacyModule } from '../privacy/privacy.controller.ts';
import { StreamModule } from '../delivery/stream.controller.ts';

interface AppOptions {
  /** Where log lines go instead of standard output. */
  readonly logs?: DestinationStream | undefined;
  readonly deadlines?: Deadlines;
  /** Ends what waits while the service starts, with an AbortError. */
  readonly stop?: AbortSignal;
  /** By which it has its name; see INSTANCE. */
  readonly instance?: string | undefined;
}

/** Builds the service; the caller listens and closes. The URLs of the database must be set, and it migrated. */
export async function createApp(
  config: Config,
  { logs, deadlines = deadlinesOf(config), stop = new AbortController().signal, instance }: AppOptions = {},
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
  const app = await NestFactory.create<NestFastifyApplication>(
    AppModule.with({ config, stop, instance, logs }),
    adapter,
    {
      bodyParser: false,
      bufferLogs: true,
      abortOnError: false,
    },
  );
  app.useLogger(new ServiceLogger(await app.resolve(PinoLogger), app.get<Params>(PARAMS_PROVIDER_TOKEN)));
  // By itself only once all has started: what the start waits for is to be read while it waits.
  app.flushLogs();
  buildPipeline(app, config, deadlines);
  return app;
}

/** What every room is given: the settings, and what the node is told of itself. */
@Global()
@Module({})
class ConfigModule {}

/** The whole service: every feature once. */
@Module({})
class AppModule {
  static with({
    config,
    stop,
    instance,
    logs,
  }: Omit<AppOptions, 'deadlines'> & { config: Config; stop: AbortSignal }): DynamicModule {
    const given = [
      { provide: CONFIG, useValue: config },
      { provide: STOP, useValue: stop },
      ...(instance === undefined ? [] : [{ provide: INSTANCE, useValue: instance }]),
    ];
    const settings: DynamicModule = {
      module: ConfigModule,
      providers: [...given, Draining],
      exports: [...given.map(({ provide }) => provide), Draining],
    };
    return {
      module: AppModule,
      imports: [
        settings,
        LoggingModule.writingTo(logs),
        MetricsModule,
        HealthModule,
        DatabaseModule,
        ChangeFeedModule,
        AuthModule,
        LogModule,
        ReceiptsModule,
        InboxModule,
        PublishingModule,
        HistoryModule,
        StreamModule,
        AdminModule,
        PrivacyModule,
        MaintenanceModule,
        DocsModule,
      ],
      providers: [Shutdown, { provide: APP_FILTER, useClass: ProblemFilter }],
    };
  }
}
