import { openDatabase, type DatabaseSettings } from '../postgres/open-database.ts';
import type { DatabaseUrls } from '../postgres/logins.ts';
import { findRunningServer } from '../postgres/running-server.ts';

/** What every command on the database is given: where it is, and how many sessions one of our own has room for. */
export const DATABASE_SETTINGS = {
  DATABASE_URL: true,
  DATABASE_ENGINE_URL: true,
  DATABASE_OWNER_URL: true,
  DATA_DIR: true,
  DATABASE_CONNECTIONS_PER_POOL: true,
} as const satisfies Record<keyof DatabaseSettings, true>;

/**
 * On the server of a running service if there is one; else the database is opened, and closed if it is ours. Throws
 * StartError with a sentence for the operator.
 */
export async function onDatabase<Result>(
  config: DatabaseSettings,
  report: (line: string) => void,
  work: (urls: DatabaseUrls) => Promise<Result>,
): Promise<Result> {
  const running = config.DATABASE_URL === undefined ? await findRunningServer(config.DATA_DIR) : undefined;
  if (running !== undefined) return await work(running);
  const database = await openDatabase(config, report);
  try {
    return await work(database.urls);
  } finally {
    await database.close();
  }
}
