import { resolve } from 'node:path';
import { ConfigError, VERSION } from '../core/config.ts';
import { StartError } from '../core/errors.ts';
import { UsageError, type Command, type Terminal } from './command.ts';

interface Entry {
  readonly summary: string;
  /** Imported only when it is meant: to print a token nobody wants to wait for the whole service. */
  readonly load: () => Promise<Command>;
}

const COMMANDS: ReadonlyMap<string, Entry> = new Map([
  [
    'start',
    {
      summary: 'runs the service until it is told to stop; so does tidings without a command',
      load: async () => (await import('./start.ts')).start,
    },
  ],
  [
    'migrate',
    { summary: 'brings the tables up to date', load: async () => (await import('./migrate.ts')).migrate },
  ],
  [
    'token',
    {
      summary: 'prints a token that the service accepts',
      load: async () => (await import('./token.ts')).token,
    },
  ],
  [
    'issuer',
    { summary: 'registers who may sign tokens', load: async () => (await import('./issuer.ts')).issuer },
  ],
  [
    'log-advance',
    {
      summary: 'lifts every log past now, after a database was restored',
      load: async () => (await import('./log-advance.ts')).logAdvance,
    },
  ],
]);

const HELP = `Tidings ${VERSION}: durable notifications for the people who are logged in to your apps.

  tidings [command] [options]

${[...COMMANDS].map(([name, { summary }]) => `  ${name.padEnd(13)}${summary}`).join('\n')}

  tidings <command> --help tells more of one, tidings --version which version this is.

Settings are taken from the environment and, where it has none, from the file .env in the folder that this is called
in; each command needs only those that it uses. In the project's folder npm runs the same commands: npm start,
npm run migrate, and npm run --silent token -- --help.
`;

/** The whole program: reads the command line, runs the command, and sets the exit code. */
export async function tidings([name = 'start', ...args]: readonly string[]): Promise<void> {
  const terminal: Terminal = {
    input: process.stdin,
    print: (text) => process.stdout.write(text),
    report: (line) => process.stderr.write(`${line}\n`),
  };
  try {
    if (['--help', '-h', 'help'].includes(name)) return terminal.print(HELP);
    if (name === '--version') return terminal.print(`${VERSION}\n`);
    const entry = COMMANDS.get(name);
    if (entry === undefined)
      throw new UsageError(`There is no command ${name}; there are ${[...COMMANDS.keys()].join(', ')}.`);
    readEnvFile();
    const run = await entry.load();
    await run(args, process.env, terminal);
  } catch (error) {
    process.exitCode = 1;
    terminal.report(inWords(error, COMMANDS.has(name) ? `tidings ${name}` : 'tidings'));
  }
}

/**
 * What an operator mends takes a sentence; what nobody foresaw comes with its stack and those of its causes, and without
 * their other properties, which hold what was asked for: a URL with its password, a row.
 */
function inWords(error: unknown, command: string): string {
  if (error instanceof UsageError) return `${error.message}\n(${command} --help tells how to use this.)`;
  if (error instanceof ConfigError || error instanceof StartError) return error.message;
  if (!(error instanceof Error)) return `${command} failed: something that is not an error was thrown.`;
  const causes: string[] = [];
  for (let cause: unknown = error; cause instanceof Error && causes.length < MAX_CAUSES; cause = cause.cause)
    causes.push(cause.stack ?? cause.message);
  return `${command} failed: ${causes.join('\ncaused by ')}`;
}

/** How far the causes of an error are followed. */
const MAX_CAUSES = 5;

/** What the environment has already wins, also where it is empty. */
function readEnvFile(): void {
  try {
    process.loadEnvFile();
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
    if (code === 'ENOENT') return;
    throw new ConfigError(`${resolve('.env')} is no file that can be read.`, { cause });
  }
}
