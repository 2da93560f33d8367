import type { Config } from '../config.ts';
import { openDatabase } from '../database/open-database.ts';
import type { DatabaseUrls } from '../database/logins.ts';
import { findRunningServer } from '../database/running-server.ts';

/**
 * On the server of a running service if there is one; else the database is opened, and closed if it is ours. Throws
 * StartError with a sentence for the operator.
 */
export async function onDatabase<Result>(
  config: Config,
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
