import { type DynamicModule, Global, Inject, Injectable, Module } from '@nestjs/common';
import { Logger, LoggerModule } from 'nestjs-pino';
import { type DestinationStream, type Level, type Logger as PinoLogger, pino } from 'pino';
import { type Config, CONFIG } from '../core/config.ts';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Metrics } from './metrics.ts';
import { randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';

@Global()
@Module({})
class RootLoggerModule {}

/**
 * One pino logger for everything: Nest's own `Logger` writes through it (by ServiceLogger), and so does the request log.
 *
 * nestjs-pino's middleware stays off (`forRoutes: []`): it would serialise every request into a child logger, and its
 * async context would put one request's id on the lines of timers and batches that many requests share.
 */
@Module({})
export class LoggingModule {
  /** Writes to standard output unless told otherwise. */
  static writingTo(destination?: DestinationStream): DynamicModule {
    const root: DynamicModule = {
      module: RootLoggerModule,
      providers: [
        {
          provide: ROOT_LOGGER,
          inject: [CONFIG],
          useFactory: (config: Config) => createRootLogger(config, destination),
        },
      ],
      exports: [ROOT_LOGGER],
    };
    return {
      module: LoggingModule,
      imports: [
        root,
        LoggerModule.forRootAsync({
          inject: [ROOT_LOGGER],
          // Its own serializers would replace ours, and write every property of an error.
          useFactory: (logger: PinoLogger) => ({
            pinoHttp: { logger, serializers: { err: describeError }, wrapSerializers: false },
            forRoutes: [],
          }),
        }),
      ],
      providers: [RequestLog],
    };
  }
}

/** The injection token of the logger that everything writes to. */
const ROOT_LOGGER = Symbol('root logger');

/** How far the causes of an error are followed. */
const MAX_CAUSES = 5;

interface LoggedError {
  type: string;
  message: string;
  code?: string;
  stack?: string;
  cause?: LoggedError;
}

/**
 * Name, message, code, stack and causes - and nothing else. A database error carries the row it tripped over in its
 * other properties (`detail`, `where`), and a row holds what people were sent.
 */
export function describeError(error: unknown, causes = MAX_CAUSES): LoggedError {
  if (!(error instanceof Error))
    return { type: typeof error, message: 'something that is not an error was thrown' };
  return {
    type: error.name,
    message: error.message,
    ...('code' in error && typeof error.code === 'string' ? { code: error.code } : {}),
    ...(error.stack === undefined ? {} : { stack: error.stack }),
    ...(error.cause === undefined || causes === 0 ? {} : { cause: describeError(error.cause, causes - 1) }),
  };
}

/** So many bytes a process may write to a pipe at once without another one's coming between them (POSIX, on Linux). */
const PIPE_BUF = 4_096;

/**
 * One JSON object a line. Standard output is written asynchronously: while one write is under way the next lines
 * collect, so a slow reader of the log (a full pipe) does not stop the service. What is left is written at exit.
 */
function createRootLogger(
  config: Pick<Config, 'LOG_LEVEL' | 'NODE_NAME' | 'WORKERS'>,
  destination?: DestinationStream,
): PinoLogger {
  return pino(
    {
      level: config.LOG_LEVEL,
      base: { node: config.NODE_NAME },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (level) => ({ level }) },
      serializers: { err: describeError },
    },
    destination ??
      pino.destination({ dest: 1, sync: false, ...(config.WORKERS > 1 ? { maxWrite: PIPE_BUF } : {}) }),
  );
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Asked every few seconds by machines: logged at debug. */
    quiet?: boolean;
  }
}

/** Longest path that is logged of a request that no route took. */
const MAX_PATH = 256;

/**
 * When a request is over, one line and one observation. The line is made of a list of known
 * fields: no header, query value, body or token has a way into it, and the path is the route's pattern.
 *
 * It hangs on the response's `close`, which also comes for a caller who left. A stream takes its socket away from the
 * response, so that none comes: history and metrics tell of streams.
 */
@Injectable()
export class RequestLog {
  constructor(
    private readonly metrics: Metrics,
    @Inject(ROOT_LOGGER) private readonly logger: PinoLogger,
  ) {}

  /** Of every request, first of all. */
  begun(request: FastifyRequest, reply: FastifyReply): void {
    const start = performance.now();
    reply.header(REQUEST_ID_HEADER, request.id);
    reply.raw.once('close', () => this.#ended(request, reply, performance.now() - start));
  }

  #ended(request: FastifyRequest, reply: FastifyReply, milliseconds: number): void {
    const { url: route, config } = request.routeOptions;
    const status = reply.raw.writableFinished ? reply.raw.statusCode : undefined;
    this.metrics.httpRequests.observe(
      { method: request.method, route: route ?? 'unmatched', status: status ?? 'aborted' },
      milliseconds / 1_000,
    );
    const level = config.quiet === true ? 'debug' : levelOf(status);
    if (!this.logger.isLevelEnabled(level)) return;
    this.logger[level](
      {
        requestId: request.id,
        traceId: parseTraceparent(request.headers['traceparent'])?.traceId,
        method: request.method,
        ...(route === undefined ? { path: pathOf(request.url) } : { route }),
        ...(status === undefined ? { aborted: true } : { status }),
        milliseconds: Math.round(milliseconds * 100) / 100,
        tenant: request.user?.tenantId,
        subject: request.user?.subject,
      },
      'request',
    );
  }
}

/**
 * 503 is announced overload or a database that is away; any other 5xx is a defect. 429 comes in floods, and who refuses
 * says so in lines of its own.
 */
function levelOf(status: number | undefined): Level {
  if (status === 429) return 'debug';
  if (status === undefined || status < 500) return 'info';
  return status === 503 ? 'warn' : 'error';
}

function pathOf(url: string): string {
  const query = url.indexOf('?');
  return (query === -1 ? url : url.slice(0, query)).slice(0, MAX_PATH);
}

/** Nest announces every module and every route when it starts: forty lines that say what the code says. */
const STARTING = new Set(['NestFactory', 'InstanceLoader', 'RoutesResolver', 'RouterExplorer']);

/** What Nest logs through: pino, with the announcements of the start at debug level. */
export class ServiceLogger extends Logger {
  override log(message: unknown, ...rest: unknown[]): void {
    const context = rest.at(-1);
    if (typeof context === 'string' && STARTING.has(context)) super.debug(message, ...rest);
    else super.log(message, ...rest);
  }
}

export const REQUEST_ID_HEADER = 'x-request-id';

const WELL_FORMED = /^[A-Za-z0-9._-]{1,128}$/;

/** The id that a request is known by: the caller's if it is 1-128 characters of `A-Za-z0-9._-`, so that a log line cannot be forged with it, else a new UUID. */
export function requestIdOf(headers: IncomingHttpHeaders): string {
  const sent = headers[REQUEST_ID_HEADER];
  return typeof sent === 'string' && WELL_FORMED.test(sent) ? sent : randomUUID();
}

/** W3C Trace Context, §3.2.2: version, trace-id, parent-id, flags. Version 00 ends there; a later one may go on after a dash. */
const TRACEPARENT = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/;

/** The longest that is kept: a later version may be longer than the 55 characters of version 00. */
const MAX_LENGTH = 128;

interface Traceparent {
  /** The whole header, as it came. */
  readonly header: string;
  /** 32 hexadecimal digits. */
  readonly traceId: string;
}

/** Reads a `traceparent` header. A malformed one counts as absent, as the standard asks. */
export function parseTraceparent(header: string | string[] | undefined): Traceparent | undefined {
  if (typeof header !== 'string' || header.length > MAX_LENGTH) return undefined;
  const [, version, traceId, rest] = TRACEPARENT.exec(header) ?? [];
  if (traceId === undefined || (version === '00' && rest !== undefined)) return undefined;
  return { header, traceId };
}
