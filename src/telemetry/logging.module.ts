import { Global, Module, type DynamicModule } from '@nestjs/common';
import { LoggerModule } from 'nestjs-pino';
import type { DestinationStream, Logger } from 'pino';
import { CONFIG, type Config } from '../core/config.ts';
import { RequestLog } from './request-log.ts';
import { ROOT_LOGGER, createRootLogger, describeError } from './root-logger.ts';

@Global()
@Module({})
class RootLoggerModule {}

/**
 * One pino logger for everything: Nest's own `Logger` writes through it (`app.useLogger(app.get(Logger))` with the
 * `Logger` of nestjs-pino), and so does the request log.
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
          useFactory: (logger: Logger) => ({
            pinoHttp: { logger, serializers: { err: describeError }, wrapSerializers: false },
            forRoutes: [],
          }),
        }),
      ],
      providers: [RequestLog],
    };
  }
}
