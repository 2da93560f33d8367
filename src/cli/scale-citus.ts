import 'reflect-metadata';
import { readSettings, settingsSchema } from '../core/config.ts';
import { DatabaseUrlError, readDatabaseUrl } from '../core/database-url.ts';
import { StartError } from '../core/errors.ts';
import { lives, NODE_SILENCE_SECONDS } from '../cluster/nodes.ts';
import { checkCitus, citusFunctions, citusMoves, distribute, PLACES, type Place } from '../postgres/citus.ts';
import { withConnection } from '../postgres/connection.ts';
import { errorCode, isConnectionLoss, reasonOf } from '../postgres/errors.ts';
import { parse, UsageError, type Command } from './command.ts';

const HELP = `Spreads the tenants of a database over the servers of a Citus cluster. For trials: see below.

  tidings scale-citus [<owner url>] [--dry-run] [--json]

  <owner url>  the coordinator by the login that owns the tables (default: DATABASE_OWNER_URL, which keeps the
               password out of the list of processes, and npm from printing it)
  --dry-run    print the statements, and connect to nothing
  --json       print the statements, or what was moved, as one line of JSON

Tables of tenants are distributed by tenant_id, all of a tenant on one server. What statements join with them is copied
to every server, and the rest stays on the coordinator. Policies and rights of the three logins go along, and the shards
are asked whether they have them. Stop every node first. It may be run again after it was stopped.

The service of this version does not work on such a database: it is shown no rows there. docs/how-to/scale.md tells why,
what has to change, and what to do before you need this. undistribute_table() takes it back.
`;

const OPTIONS = {
  'dry-run': { type: 'boolean', default: false },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

const settings = settingsSchema.pick({
  DATABASE_URL: true,
  DATABASE_ENGINE_URL: true,
  DATABASE_OWNER_URL: true,
});

/** `tidings scale-citus`. */
export const scaleCitus: Command = async (args, environment, terminal) => {
  const { values, positionals } = parse({ args: [...args], options: OPTIONS, allowPositionals: true });
  if (values.help) return terminal.print(HELP);
  if (positionals.length > 1) throw new UsageError('Give one URL, that of the owner.');
  if (values['dry-run']) return terminal.print(values.json ? `${JSON.stringify(plan())}\n` : planInWords());
  const url = ownerUrl(positionals[0], environment);
  const moved = await withConnection({ url, name: 'tidings scale' }, async (owner) => {
    await checkCitus(owner);
    await checkStopped((sql) => owner.query(sql));
    return await distribute(owner, terminal.report);
  }).catch((cause: unknown) => {
    // What the server says of itself, or the way to it, in words: neither holds the password.
    if (errorCode(cause) === undefined && !isConnectionLoss(cause)) throw cause;
    const { place } = readDatabaseUrl(url);
    throw new StartError(
      `The database at ${place} did not do it: ${reasonOf(cause)}. What was moved before that stays, and is passed over the next time.`,
      { cause },
    );
  });
  terminal.print(values.json ? `${JSON.stringify({ moved })}\n` : `${movedInWords(moved)}\n`);
};

function ownerUrl(given: string | undefined, environment: NodeJS.ProcessEnv): string {
  if (given === undefined) {
    const { DATABASE_OWNER_URL: url } = readSettings(environment, settings);
    if (url === undefined) throw new UsageError('Give the URL of the owner, or set DATABASE_OWNER_URL.');
    return url;
  }
  try {
    readDatabaseUrl(given);
  } catch (cause) {
    if (!(cause instanceof DatabaseUrlError)) throw cause;
    // The sentence of a setting goes on from its name, and never repeats the URL.
    throw new UsageError(`The URL of the owner cannot be used: one ${cause.message}.`, { cause });
  }
  return given;
}

/** A node that goes on would wait for the locks, and then be shown nothing. */
async function checkStopped(ask: (sql: string) => Promise<{ rows: { node: string }[] }>): Promise<void> {
  const { rows } = await ask(
    `select node from nodes where instance is not null and ${lives('nodes')} order by node`,
  );
  if (rows.length > 0)
    throw new StartError(
      `Nodes are at work on this database (${rows.map(({ node }) => node).join(', ')}): stop every one, and run this again. One that was killed counts for ${NODE_SILENCE_SECONDS} seconds more.`,
    );
}

const plan = () => ({
  tables: PLACES,
  statements: [...citusFunctions(), ...citusMoves().flatMap(({ statements }) => statements)],
});

const WHERE: Readonly<Record<Place, string>> = {
  distributed: 'distributed by tenant_id',
  reference: 'copied to every server',
  local: 'on the coordinator',
};

/** A script for psql, so that whoever wants to can run it by hand. */
function planInWords(): string {
  const tables = Object.entries(WHERE).map(([place, words]) => {
    const names = Object.keys(PLACES).filter((table) => PLACES[table] === place);
    return `-- ${words}: ${names.join(', ')}`;
  });
  const moves = citusMoves().map(({ statements }) => `begin;\n${statements.join(';\n')};\ncommit;`);
  return [
    '-- By the login of the owner, on the coordinator. Run before by a superuser on every server: create extension citus.',
    '-- The three logins have to exist on every server, and may connect from the coordinator. Every node is stopped.',
    tables.join('\n'),
    citusFunctions()
      .map((statement) => `${statement};`)
      .join('\n'),
    ...moves,
    '',
  ].join('\n\n');
}

const movedInWords = (moved: readonly string[]): string =>
  moved.length === 0
    ? 'Nothing to move: Citus has every table already.'
    : `Moved: ${moved.join(', ')}. The service of this version is shown no rows there (docs/how-to/scale.md); undistribute_table() takes it back.`;
