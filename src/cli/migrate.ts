import { readSettings, settingsSchema } from '../core/config.ts';
import { openDatabase } from '../postgres/open-database.ts';
import { DATABASE_SETTINGS, parse, type Command } from './command.ts';

const HELP = `Brings the tables up to date, as every start of the service with DATABASE_OWNER_URL does, and nothing else.

  tidings migrate [--json]

  --json   print the names of the migrations that ran as one line of JSON

It works on DATABASE_URL, DATABASE_ENGINE_URL and DATABASE_OWNER_URL, makes the logins of the first two if they are
missing, and gives them their rights. Without them it works on the service's own database under DATA_DIR. Any number
may run at once.
`;

const OPTIONS = {
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

const settings = settingsSchema.pick(DATABASE_SETTINGS);

/** `tidings migrate`. */
export const migrate: Command = async (args, environment, terminal) => {
  const { values } = parse({ args: [...args], options: OPTIONS });
  if (values.help) return terminal.print(HELP);
  const database = await openDatabase(readSettings(environment, settings), terminal.report);
  await database.close();
  const { migrations } = database;
  if (values.json) terminal.print(`${JSON.stringify({ migrations })}\n`);
  else
    terminal.print(
      migrations.length === 0 ? 'Nothing to migrate.\n' : `Migrated: ${migrations.join(', ')}.\n`,
    );
};
