import pg from 'pg';
import { SESSION_SETTINGS } from '../../src/postgres/session-settings.ts';
import type { DatabasePlace } from './database.ts';

/**
 * What somebody may have set for a database or a login, for other programs. Each changes what is stored or read, or when a
 * session ends. In pairs with what the service relies on: a setting that has none here is not tested.
 */
export const HOSTILE: Readonly<Record<string, string>> = {
  DateStyle: `'German, DMY'`,
  IntervalStyle: `'sql_standard'`,
  TimeZone: `'Asia/Kolkata'`,
  standard_conforming_strings: 'off',
  bytea_output: 'escape',
  extra_float_digits: '-15',
  array_nulls: 'off',
  transform_null_equals: 'on',
  search_path: '"$user", pg_catalog',
  row_security: 'off',
  default_transaction_isolation: `'serializable'`,
  default_transaction_deferrable: 'on',
  statement_timeout: `'600s'`,
  lock_timeout: '1',
  idle_session_timeout: `'600s'`,
  transaction_timeout: `'600s'`,
  idle_in_transaction_session_timeout: '0',
};

/** Sets all of them, for the database or for its logins there. Sessions that are open keep what they have. */
export async function makeHostile({ url, urls }: DatabasePlace, whose: 'database' | 'logins'): Promise<void> {
  const database = pg.escapeIdentifier(new URL(url).pathname.slice(1));
  const logins = Object.values(urls).map((login) => pg.escapeIdentifier(new URL(login).username));
  const subjects =
    whose === 'database'
      ? [`database ${database}`]
      : logins.map((login) => `role ${login} in database ${database}`);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    for (const subject of subjects)
      for (const name of new Set([...Object.keys(SESSION_SETTINGS), ...Object.keys(HOSTILE)]))
        await client.query(`alter ${subject} set ${name} to ${HOSTILE[name]}`);
  } finally {
    await client.end();
  }
}
