/*
 * What a session of the service has to be like. PostgreSQL takes these from the server's configuration, the database and
 * the login, wherever somebody set them for somebody else, and each of them changes what is stored, what is read, or when
 * a session ends. Every connection sets them (connection.ts), whoever set what before; and the logins of the service and
 * the engine keep them (login-settings.ts), for poolers, behind which a statement may meet a session that nobody set up.
 *
 * Limits of time are none here: each statement brings its own (pool.ts).
 *
 * What a server is too old to know cannot be wrong there, and is left out: `transaction_timeout` came with PostgreSQL 17.
 * So a server that is too old for the service can be asked how old it is.
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
  // Off, a statement fails where it should be shown one tenant.
  row_security: 'on',
  // What a statement sees that waited for a lock (ADR 2) is that of this level.
  default_transaction_isolation: 'read committed',
  default_transaction_deferrable: 'off',
  // Other people's limits. An idle session is kept; one that is idle in a transaction keeps hot rows from being pruned:
  // 40 s of it cost three quarters of the appends.
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
 * Makes a session so. A commit that does not wait for the disk makes a lie of a 201; what else `synchronous_commit` can be
 * asks more or less of standbys, and is the operator's.
 */
export const SET_UP_SESSION = `select ${[
  ...assignments(SESSION_SETTINGS, false),
  `set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)`,
].join(', ')}`;

/** Makes a transaction so. */
export const SET_UP_TRANSACTION = `select ${assignments(SESSION_SETTINGS, true).join(', ')}`;

/** Lets a transaction take as long as it takes, whatever else limits it. */
export const WITHOUT_LIMITS = `select ${assignments(
  {
    statement_timeout: '0',
    lock_timeout: '0',
    transaction_timeout: '0',
    idle_in_transaction_session_timeout: '0',
  },
  true,
).join(', ')}`;
