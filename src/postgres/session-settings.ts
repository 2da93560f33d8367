import pg from 'pg';
import { reasonOf } from './errors.ts';
import { StartError } from '../core/errors.ts';

/*
 * What a session of the service has to be like. PostgreSQL takes these settings from the server's configuration, the
 * database or the role, wherever somebody set them for other purposes. Each of them changes what is stored, what is read,
 * or when a session ends. So they are set twice:
 *
 * - by every connection, when it is made (connection.ts);
 * - by each role of the service, as its defaults in this database (`keepSettings`). Behind a pooler that lends sessions for
 *   a transaction, a statement may run in a session that no connection of ours has set up.
 *
 * Timeouts are off here, because each statement brings its own (pool.ts).
 *
 * A setting that the server does not know yet is left out (`transaction_timeout` came with PostgreSQL 17). So a server that
 * is too old for the service can still be asked for its version.
 */
export const SESSION_SETTINGS: Readonly<Record<string, string>> = {
  // How instants are written and read.
  DateStyle: 'ISO, MDY',
  IntervalStyle: 'postgres',
  TimeZone: 'UTC',
  // What a text means: to the parser, as bytes, as a number, as an element of an array, beside null.
  standard_conforming_strings: 'on',
  bytea_output: 'hex',
  extra_float_digits: '1',
  array_nulls: 'on',
  transform_null_equals: 'off',
  // Temporary tables come last, or they would take the place of ours.
  search_path: 'public, pg_temp',
  // With off, a statement fails where row-level security should show it the rows of one tenant.
  row_security: 'on',
  // What a statement sees after it waited for a lock (ADR 2) is what this level shows.
  default_transaction_isolation: 'read committed',
  default_transaction_deferrable: 'off',
  // Timeouts that others set. An idle session is kept. A session that is idle in a transaction is not: it keeps updated
  // rows from being pruned, and 40 s of it cost three quarters of the appends.
  statement_timeout: '0',
  lock_timeout: '0',
  idle_session_timeout: '0',
  transaction_timeout: '0',
  idle_in_transaction_session_timeout: '30s',
};

const assignments = (settings: Readonly<Record<string, string>>, local: boolean): string[] =>
  Object.entries(settings).map(
    ([name, value]) =>
      `case when current_setting('${name}', true) is not null then set_config('${name}', '${value}', ${local}) end`,
  );

/**
 * Applies the settings to a session. It also turns `synchronous_commit` on where it is off, since a 201 promises a commit
 * on disk; its other values ask more or less of standbys, and are the operator's choice.
 */
export const SET_UP_SESSION = `select ${[
  ...assignments(SESSION_SETTINGS, false),
  `set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)`,
].join(', ')}`;

/** Applies the settings to the current transaction. */
const SET_UP_TRANSACTION = `select ${assignments(SESSION_SETTINGS, true).join(', ')}`;

/** Turns every timeout off for the current transaction. */
export const WITHOUT_TIMEOUTS = `select ${assignments(
  {
    statement_timeout: '0',
    lock_timeout: '0',
    transaction_timeout: '0',
    idle_in_transaction_session_timeout: '0',
  },
  true,
).join(', ')}`;

/** Key of an advisory lock, the same on every node: of two nodes that alter a role at once, one would fail. */
const SETTINGS_LOCK = 7_469_004;

/**
 * What `checkSettings` compares sessions with. It includes settings that the service cannot apply: one that only a superuser
 * may set, and the encoding, which the driver asks for.
 */
const EXPECTED: Readonly<Record<string, string>> = {
  ...SESSION_SETTINGS,
  client_encoding: 'UTF8',
  // With another value foreign keys are not checked.
  session_replication_role: 'origin',
};

/**
 * Makes the settings the defaults of the connected role in this database, which a role may do for itself, and checks that
 * sessions have them. Without a pooler it is no error that the role may not: each connection sets them itself.
 *
 * @param setting the setting whose URL `client` is connected by, for messages
 * @throws StartError if sessions of the role are not as the service needs them, or could not be
 */
export async function keepSettings(client: pg.Client, setting: string): Promise<void> {
  const { database, known, defaults, pid } = await readDefaults(client);
  if (!areDefaults(known, defaults))
    await setDefaults(client, database, known).catch((cause: unknown) => {
      if (!('processID' in client) || client.processID === pid) return;
      throw new StartError(
        `The login of ${setting} is behind a pooler and cannot keep the settings of its sessions: ${reasonOf(cause)}`,
        { cause },
      );
    });
  await checkSettings(client, setting);
}

interface RoleDefaults {
  readonly database: string;
  /** Names of those SESSION_SETTINGS that the server knows. */
  readonly known: readonly string[];
  /** The defaults of the role in this database, as `name=value`. */
  readonly defaults: readonly string[];
  /** Process id of the session in the server. A pooler tells the driver a different one. */
  readonly pid: number;
}

async function readDefaults(client: pg.Client): Promise<RoleDefaults> {
  const { rows } = await client.query<RoleDefaults>(
    `
    select d.datname as database, coalesce(s.setconfig, '{}') as defaults, pg_backend_pid() as pid,
      array(select name from unnest($1::text[]) as name where current_setting(name, true) is not null) as known
    from pg_database d
    join pg_roles r on r.rolname = session_user
    left join pg_db_role_setting s on s.setdatabase = d.oid and s.setrole = r.oid
    where d.datname = current_database()`,
    [Object.keys(SESSION_SETTINGS)],
  );
  const [row] = rows;
  if (row === undefined) throw new Error('a session is in a database');
  return row;
}

function areDefaults(known: readonly string[], defaults: readonly string[]): boolean {
  const found = new Set(defaults.map((assignment) => assignment.toLowerCase()));
  return known.every((name) => found.has(`${name}=${SESSION_SETTINGS[name]}`.toLowerCase()));
}

async function setDefaults(client: pg.Client, database: string, known: readonly string[]): Promise<void> {
  // One message, hence one transaction, which ends with the first statement that fails.
  await client.query(
    [
      `select pg_advisory_xact_lock(${SETTINGS_LOCK})`,
      SET_UP_TRANSACTION,
      ...known.map(
        (name) =>
          `alter role session_user in database ${pg.escapeIdentifier(database)} set ${name} from current`,
      ),
    ].join('; '),
  );
}

async function checkSettings(client: pg.Client, setting: string): Promise<void> {
  // No session may begin with a tenant already named.
  const { rows } = await client.query<{ name: string; found: string }>(
    `select name, current_setting(name, true) as found from unnest($1::text[]) as name
     where current_setting(name, true) is not null
     union all select 'tidings.tenant', coalesce(current_setting('tidings.tenant', true), '')`,
    [Object.keys(EXPECTED)],
  );
  const wrong = rows.filter(({ name, found }) => found !== (EXPECTED[name] ?? ''));
  if (wrong.length > 0)
    throw new StartError(
      `Sessions of the login of ${setting} are not as the service needs them, and it cannot change that:\n${wrong.map(({ name, found }) => `  - ${name} is "${found}" instead of "${EXPECTED[name] ?? ''}"`).join('\n')}`,
    );
}
