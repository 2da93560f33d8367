import type { AddressInfo } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { DestinationStream } from 'pino';
import { createApp } from '../../src/app/app.ts';
import { deadlinesOf, type Deadlines } from '../../src/http/connections.ts';
import type { Config } from '../../src/core/config.ts';
import { uniqueNodeName } from './node-name.ts';
import { createDatabase, settingsOf, type TestDatabase } from './database.ts';
import { testConfig, type TestSettings } from './settings.ts';
import { TEST_SECRET } from './tokens.ts';

export interface Service {
  readonly url: string;
  readonly config: Config;
  readonly app: NestFastifyApplication;
  readonly database: TestDatabase;
  /** Stops the service; drops the database if it was made here. */
  close(): Promise<void>;
}

interface Options {
  /** A database to use instead of a new one; it is not dropped. */
  database?: TestDatabase;
  /** Where log lines go. */
  logs?: DestinationStream;
  /** Shorter ones, for a test that waits for them. */
  deadlines?: Partial<Deadlines>;
  /** Is given the application before it listens. */
  prepare?: (app: NestFastifyApplication) => void;
}

/**
 * What is logged outside of a request goes to the first logger that nestjs-pino made in a process, and so to that of another
 * test file. It has this for tests, and does not export it.
 */
const { __resetOutOfContextForTests: forgetFirstLogger } = (await import(
  new URL('PinoLogger.js', import.meta.resolve('nestjs-pino')).href
)) as { __resetOutOfContextForTests: () => void };

/** Starts the whole service in this process, on a free port, with a database of its own. */
export async function startService(settings: TestSettings = {}, options: Options = {}): Promise<Service> {
  const database = options.database ?? (await createDatabase());
  const config = testConfig({
    HOST: '127.0.0.1',
    PORT: '0',
    LOG_LEVEL: process.env['TEST_LOG_LEVEL'] ?? 'silent',
    ...settingsOf(database),
    ...('JWKS_URL' in settings ? {} : { JWT_SECRET: TEST_SECRET }),
    // A machine that stands still for a while is not what a test is about, unless it says so.
    DATABASE_CONNECT_TIMEOUT_MS: '60000',
    DATABASE_STATEMENT_TIMEOUT_MS: '60000',
    CHANGES_TIMEOUT_MS: 60_000,
    SHUTDOWN_DELAY_SECONDS: '0',
    NODE_NAME: uniqueNodeName(),
    ...settings,
  });
  if (options.logs !== undefined) forgetFirstLogger();
  const app = await createApp(config, {
    logs: options.logs,
    deadlines: { ...deadlinesOf(config), ...options.deadlines },
  });
  options.prepare?.(app);
  try {
    await app.listen(config.PORT, '127.0.0.1');
  } catch (error) {
    await app.close();
    throw error;
  }
  const { port } = app.getHttpServer().address() as AddressInfo;
  const close = async () => {
    await app.close();
    if (options.database === undefined) await database.drop();
  };
  return { url: `http://127.0.0.1:${port}`, config, app, database, close };
}
