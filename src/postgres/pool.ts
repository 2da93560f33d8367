import pg from 'pg';
import { Problem } from '../core/errors.ts';
import { connectionConfig } from './connection.ts';
import { ask, sqlOfLimits, type Limits, type Preface, type Statement } from './prefaced-query.ts';

export type { Statement } from './prefaced-query.ts';

export interface PoolOptions extends Limits {
  url: string;
  /** Shown in `pg_stat_activity`, so that an operator sees who is busy. */
  name: string;
  connections: number;
  connectTimeoutMs: number;
  preparedStatements: boolean;
}

/** Connections to `url` as every pool of the service makes them. */
export function connectionsTo(options: PoolOptions): pg.Pool {
  const pool = new pg.Pool({
    ...connectionConfig({
      url: options.url,
      name: `tidings ${options.name}`,
      connectTimeoutMs: options.connectTimeoutMs,
      answerTimeoutMs: options.statementTimeoutMs + options.connectTimeoutMs,
    }),
    max: options.connections,
    // Kept for good: a new one has to make itself known and plan its statements, 50 ms on a busy server, and would be
    // needed just when there is a crowd.
    idleTimeoutMillis: 0,
  });
  // What is said of a connection that dies must be heard, or it ends the process. Of an idle one the pool hears, and the
  // next query opens a new one. Of one that was just handed out nobody does, unless it is listened to from the beginning:
  // the last words of the server may come in one packet with what made the connection ready. The query that fails says the same.
  pool.on('error', () => undefined).on('connect', (client) => client.on('error', () => undefined));
  return pool;
}

/**
 * A few connections with one purpose. Work of one kind never waits for connections that another kind holds:
 * a slow history query cannot keep publishes from committing. What is asked here may concern many tenants; for one
 * there is TenantPool.
 */
export class Pool {
  readonly #pool: pg.Pool;
  readonly #prepared: boolean;
  readonly #preface: Preface;

  constructor(options: PoolOptions) {
    this.#prepared = options.preparedStatements;
    this.#preface = { statement: { name: 'limits', text: `select ${sqlOfLimits(options)}` }, values: [] };
    this.#pool = connectionsTo(options);
  }

  /** Runs one statement and returns its rows. Throws the driver's error; see `isConnectionLoss`. */
  async rows<Row extends pg.QueryResultRow>(
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    return await onConnection(this.#pool, (client) =>
      ask<Row>(client, this.#preface, statement, values, this.#prepared),
    );
  }

  /** Runs `work` in one transaction on one connection. */
  async transaction<Result>(work: (run: Pool['rows']) => Promise<Result>): Promise<Result> {
    const begin = `begin; ${this.#preface.statement.text}`;
    return await inTransaction(this.#pool, begin, (client) => work(statementsOn(client)));
  }

  /** Waits for running statements and closes the connections. */
  async end(): Promise<void> {
    await this.#pool.end();
  }
}

const statementsOn =
  (client: pg.PoolClient): Pool['rows'] =>
  async <Row extends pg.QueryResultRow>(statement: Statement, values?: readonly unknown[]) => {
    const { rows } = await client.query<Row>(statement.text, [...(values ?? [])]);
    return rows;
  };

/** Runs `work` on a connection of its own, which is closed when `work` fails. */
export async function onConnection<Result>(
  pool: pg.Pool,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  const client = await pool.connect();
  let failed = true;
  try {
    const result = await work(client);
    failed = false;
    return result;
  } finally {
    client.release(failed);
  }
}

/** @param begin the SQL that begins the transaction */
export async function inTransaction<Result>(
  pool: pg.Pool,
  begin: string,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  const done = await onConnection(pool, async (client) => {
    try {
      await client.query(begin);
      const result = await work(client);
      await client.query('commit');
      return { result };
    } catch (error) {
      if (isConnectionLoss(error)) throw error;
      // What failed is told, and not that the connection was lost after it.
      await client.query('rollback').catch(() => {
        throw error;
      });
      return { error };
    }
  });
  if ('error' in done) throw done.error;
  return done.result;
}

/**
 * SQLSTATEs after which the statement did not happen or cannot be known to have happened because the server or
 * the connection went away: class 08, class 57P (shutdown, terminated), 53300 (no connections left).
 */
const LOST = /^(?:08|57P|53300)/;
/** This process, or its machine, may not open another connection. */
const NO_DESCRIPTOR: readonly string[] = ['EMFILE', 'ENFILE'];
const SOCKET_ERRORS = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENOENT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  ...NO_DESCRIPTOR,
]);

/** The SQLSTATE or system code of an error, if it has one. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string')
    return error.code;
  return undefined;
}

/** True when the database, or the way to it, is gone. For a statement under way this means: the outcome is unknown. */
export function isConnectionLoss(error: unknown): boolean {
  const code = errorCode(error);
  if (code !== undefined) return LOST.test(code) || SOCKET_ERRORS.has(code);
  // `pg` reports these without a code.
  return (
    error instanceof Error &&
    /Connection terminated|Query read timeout|timeout expired|timeout exceeded when trying to connect|Client has encountered a connection error|Cannot use a pool after calling end/.test(
      error.message,
    )
  );
}

/** True when no connection was to be had, so that the statement certainly did not run. */
export function isNeverSent(error: unknown): boolean {
  const code = errorCode(error);
  if (code !== undefined)
    return [
      'ECONNREFUSED',
      'ENOTFOUND',
      'EAI_AGAIN',
      'ENOENT',
      '57P03',
      '53300',
      'NO_TURN',
      ...NO_DESCRIPTOR,
    ].includes(code);
  return (
    error instanceof Error &&
    /timeout expired|timeout exceeded when trying to connect|Connection terminated due to connection timeout/.test(
      error.message,
    )
  );
}

/** No room left on the disk of the database. */
const FULL = '53100';

/**
 * What was given up for others and had no effect: 57014 ran into its time limit, mostly behind a lock; 25P03 and 25P04
 * ran into that of an idle and of any transaction, and its session was ended before the commit; 55P03 was not
 * granted its lock in time; class 40 met another transaction; the rest of class 53 found no memory or no descriptor;
 * NO_TURN waited for statements of its own tenant.
 */
const BUSY = /^(?:57014|25P03|25P04|55P03|40|53|NO_TURN)/;

/** 25006: a server that takes no writes (a standby, in a failover). Class 58: the system below the server failed it. */
const FAILING = /^(?:25006|58)/;

const isBusy = (code: string): boolean => BUSY.test(code) && code !== FULL && !LOST.test(code);

/** True when the same statement may well succeed in a while. */
export function isUnavailable(error: unknown): boolean {
  const code = errorCode(error) ?? '';
  return isConnectionLoss(error) || isBusy(code) || code === FULL || FAILING.test(code);
}

/** The SQLSTATE of a database that answers and cannot do what it was asked, whoever asks: it is full, or takes no writes. */
export function failureOf(error: unknown): string | undefined {
  const code = errorCode(error);
  return code !== undefined && (code === FULL || FAILING.test(code)) ? code : undefined;
}

/** What a caller is told of an error that `isUnavailable`. */
export function databaseUnavailable(cause: unknown): Problem {
  const code = errorCode(cause) ?? '';
  if (NO_DESCRIPTOR.includes(code))
    return new Problem('overloaded', 'This node has as many connections as it may.', {
      retryAfter: 1,
      cause,
    });
  if (code === FULL)
    return new Problem('database_full', 'The disk of the database is full.', { retryAfter: 5, cause });
  if (isBusy(code))
    return new Problem('database_busy', 'The database did not come to it in time.', { retryAfter: 2, cause });
  return new Problem('database_unavailable', 'The database cannot be reached at the moment.', {
    retryAfter: 2,
    cause,
  });
}
