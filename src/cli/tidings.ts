import { resolve } from 'node:path';
import { ConfigError, readSettings, settingsSchema, VERSION } from '../core/config.ts';
import { DATABASE_SETTINGS, parse, UsageError, type Command, type Terminal } from './command.ts';
import { StartError } from '../core/errors.ts';

interface Entry {
  readonly summary: string;
  /** Imports the command only when it is called: nobody who prints a token should wait for the whole service to load. */
  readonly load: () => Promise<Command>;
}

const COMMANDS: ReadonlyMap<string, Entry> = new Map([
  [
    'start',
    {
      summary: 'runs the service until it is told to stop; so does tidings without a command',
      load: async () => start,
    },
  ],
  ['migrate', { summary: 'brings the tables up to date', load: async () => migrate }],
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
  [
    'scale-citus',
    {
      summary: 'spreads tenants over the servers of a Citus cluster, for trials',
      load: async () => (await import('./scale-citus.ts')).scaleCitus,
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

const START_HELP = `Runs the service until SIGTERM or Ctrl-C.

  tidings start

Without settings it starts a PostgreSQL of its own under .data, makes a secret there, and listens on loopback. What
it says to people goes to standard error; standard output carries the structured log.
`;

/** `tidings start`. */
async function start(
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
  terminal: Terminal,
): Promise<void> {
  const { values } = parse({ args: [...args], options: { help: { type: 'boolean', short: 'h' } } });
  if (values.help === true) return terminal.print(START_HELP);
  const { run } = await import('../app/run.ts');
  await run(environment);
}

const MIGRATE_HELP = `Brings the tables up to date, as every start of the service with DATABASE_OWNER_URL does, and nothing else.

  tidings migrate [--json]

  --json   print the names of the migrations that ran as one line of JSON

It works on DATABASE_URL, DATABASE_ENGINE_URL and DATABASE_OWNER_URL, makes the logins of the first two if they are
missing, and gives them their rights. Without them it works on the service's own database under DATA_DIR. Any number
may run at once.
`;

/** `tidings migrate`. */
async function migrate(
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
  terminal: Terminal,
): Promise<void> {
  const { values } = parse({
    args: [...args],
    options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help === true) return terminal.print(MIGRATE_HELP);
  const settings = readSettings(environment, settingsSchema.pick(DATABASE_SETTINGS));
  const { openDatabase } = await import('../postgres/open-database.ts');
  const database = await openDatabase(settings, terminal.report);
  await database.close();
  const { migrations } = database;
  if (values.json === true) terminal.print(`${JSON.stringify({ migrations })}\n`);
  else
    terminal.print(
      migrations.length === 0 ? 'Nothing to migrate.\n' : `Migrated: ${migrations.join(', ')}.\n`,
    );
}

/**
 * An error in words. One that the operator can mend is a sentence. Any other comes with its stack and the stacks of its
 * causes, and without their other properties, which may hold a URL with its password or a row.
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

/** Reads `.env`. A variable that the environment has already stays as it is, even if it is empty. */
function readEnvFile(): void {
  try {
    process.loadEnvFile();
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
    if (code === 'ENOENT') return;
    throw new ConfigError(`${resolve('.env')} is no file that can be read.`, { cause });
  }
}
