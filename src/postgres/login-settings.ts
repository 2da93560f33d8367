import pg from 'pg';
import { StartError } from '../core/start-error.ts';
import { withConnection } from './connection.ts';
import { reasonOf } from './errors.ts';
import { SESSION_SETTINGS, SET_UP_TRANSACTION } from './session-settings.ts';

/** Any number will do, as long as every node takes the same one: of two that alter a login at once one would fail. */
const SETTINGS_LOCK = 7_469_004;

/** What nobody but a superuser can set, or an encoding that the driver has asked for. */
const EXPECTED: Readonly<Record<string, string>> = {
  ...SESSION_SETTINGS,
  client_encoding: 'UTF8',
  // Another one leaves out the checks of keys that point to other tables.
  session_replication_role: 'origin',
};

/**
 * Sees to it that every session of a login is as the service needs it, or throws StartError. Each connection sets itself
 * up, but behind a pooler that lends sessions by the transaction it does so for whichever session it met: there a new
 * session is right by what its login keeps. A login may set that for itself. `setting`: which URL it is.
 */
export async function keepSettings(setting: string, url: string): Promise<void> {
  await withConnection({ url, name: 'tidings settings' }, async (client) => {
    const { database, known, kept, pid } = await lookAt(client);
    if (!isKept(known, kept))
      await keep(client, database, known).catch((cause: unknown) => {
        // Without a pooler, what the connection sets is enough.
        if (!('processID' in client) || client.processID === pid) return;
        throw new StartError(
          `The login of ${setting} is behind a pooler and cannot keep the settings of its sessions: ${reasonOf(cause)}`,
          { cause },
        );
      });
    await check(client, setting);
  });
}

interface Look {
  readonly database: string;
  /** Those of the settings that the server knows. */
  readonly known: readonly string[];
  /** What the login keeps for this database, as `name=value`. */
  readonly kept: readonly string[];
  /** The session's own number; a pooler tells the driver another one. */
  readonly pid: number;
}

async function lookAt(client: pg.Client): Promise<Look> {
  const { rows } = await client.query<Look>(
    `
    select d.datname as database, coalesce(s.setconfig, '{}') as kept, pg_backend_pid() as pid,
      array(select name from unnest($1::text[]) as name where current_setting(name, true) is not null) as known
    from pg_database d
    join pg_roles r on r.rolname = session_user
    left join pg_db_role_setting s on s.setdatabase = d.oid and s.setrole = r.oid
    where d.datname = current_database()`,
    [Object.keys(SESSION_SETTINGS)],
  );
  const [look] = rows;
  if (look === undefined) throw new Error('a session is in a database');
  return look;
}

function isKept(known: readonly string[], kept: readonly string[]): boolean {
  const found = new Set(kept.map((assignment) => assignment.toLowerCase()));
  return known.every((name) => found.has(`${name}=${SESSION_SETTINGS[name]}`.toLowerCase()));
}

async function keep(client: pg.Client, database: string, known: readonly string[]): Promise<void> {
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

async function check(client: pg.Client, setting: string): Promise<void> {
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
