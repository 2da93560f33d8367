import { parseArgs, type ParseArgsConfig } from 'node:util';
import type { DatabaseUrls } from '../postgres/roles.ts';
import type { DatabaseSettings } from '../postgres/open-database.ts';

/** Where a command reads from and writes to. */
export interface Terminal {
  readonly input: AsyncIterable<Uint8Array>;
  /** Writes the result to standard output, and nothing else, since other programs read it. */
  readonly print: (text: string) => void;
  /** Tells people what happens meanwhile, a line at a time, on standard error. */
  readonly report: (line: string) => void;
}

/**
 * What `tidings <name>` does.
 *
 * @param args what follows the name
 * @throws UsageError, ConfigError or StartError with a sentence for the operator, or the driver's error
 */
export type Command = (
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
  terminal: Terminal,
) => Promise<void>;

/** The command line makes no sense; the message is for the operator. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Node's own reading of a command line. @throws UsageError in Node's words */
export function parse<Options extends ParseArgsConfig>(
  options: Options,
): ReturnType<typeof parseArgs<Options>> {
  try {
    return parseArgs(options);
  } catch (cause) {
    throw new UsageError(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

/** The settings of every command that works on the database: where it is, and how many sessions an embedded server needs. */
export const DATABASE_SETTINGS = {
  DATABASE_URL: true,
  DATABASE_ENGINE_URL: true,
  DATABASE_OWNER_URL: true,
  DATA_DIR: true,
  DATABASE_CONNECTIONS_PER_POOL: true,
  WORKERS: true,
} as const satisfies Record<keyof DatabaseSettings, true>;

/**
 * Runs `work` on the database. The embedded server of a running service is used as it is; otherwise the database is
 * opened as at a start, and an embedded server that was started for this is stopped again.
 *
 * @throws StartError with a sentence for the operator
 */
export async function onDatabase<Result>(
  config: DatabaseSettings,
  report: (line: string) => void,
  work: (urls: DatabaseUrls) => Promise<Result>,
): Promise<Result> {
  // Imported only here: commands without a database need not load it.
  const { openDatabase } = await import('../postgres/open-database.ts');
  const { findRunningServer } = await import('../postgres/embedded-server.ts');
  const running = config.DATABASE_URL === undefined ? await findRunningServer(config.DATA_DIR) : undefined;
  if (running !== undefined) return await work(running);
  const database = await openDatabase(config, report);
  try {
    return await work(database.urls);
  } finally {
    await database.close();
  }
}
