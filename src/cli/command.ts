import { parseArgs, type ParseArgsConfig } from 'node:util';

/** Where a command reads from and writes to. */
export interface Terminal {
  readonly input: AsyncIterable<Uint8Array>;
  /** For the result, and nothing else: what other programs read. */
  readonly print: (text: string) => void;
  /** For what is no result: what the database does. */
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

/** The command was called in a way that cannot be meant; the message is for the operator. */
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
