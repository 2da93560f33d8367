import { pino, type DestinationStream, type Logger } from 'pino';
import type { Config } from '../core/config.ts';

/** The injection token of the logger that everything writes to. */
export const ROOT_LOGGER = Symbol('root logger');

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

/**
 * One JSON object a line. Standard output is written asynchronously: while one write is under way the next lines
 * collect, so a slow reader of the log (a full pipe) does not stop the service. What is left is written at exit.
 */
export function createRootLogger(
  config: Pick<Config, 'LOG_LEVEL' | 'NODE_NAME'>,
  destination?: DestinationStream,
): Logger {
  return pino(
    {
      level: config.LOG_LEVEL,
      base: { node: config.NODE_NAME },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (level) => ({ level }) },
      serializers: { err: describeError },
    },
    destination ?? pino.destination({ dest: 1, sync: false }),
  );
}
