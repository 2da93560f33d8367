import pg from 'pg';
import { connectionConfig } from './connection.ts';
import { isConnectionLoss } from './errors.ts';

/** One SQL statement, named so that PostgreSQL parses and plans it once per connection. */
export interface Statement {
  readonly name: string;
  readonly text: string;
  /** Whether a row in its answer means that something is stored. */
  readonly stores?: true;
}

/** Server settings for each statement or transaction of a pool. */
export interface StatementSettings {
  /** Longest time for a statement, in ms. */
  statementTimeoutMs: number;
  /** Longest wait for one lock, in ms. Without it the wait ends with the statement's own timeout. */
  lockTimeoutMs?: number;
  /**
   * Plans each prepared statement once for all values. By itself the server compares cost estimates, and planned large
   * statements anew each time, for 3 to 5 ms. Test such statements with their generic plan. What such a plan is estimated to
   * cost has nothing to do with what it costs, so it must not have the server compile it (`jit`). Default: the server decides.
   */
  genericPlans?: boolean;
}

/**
 * The settings as SQL: the list of a `select` at the beginning of the transaction that they hold for. They are not sent
 * when the connection is made, because PgBouncer refuses that, and because behind it statements of several pools meet in
 * one session.
 */
export function sqlOfSettings({
  statementTimeoutMs,
  lockTimeoutMs = 0,
  genericPlans = false,
}: StatementSettings): string {
  return [
    `set_config('statement_timeout', '${statementTimeoutMs}', true)`,
    `set_config('lock_timeout', '${lockTimeoutMs}', true)`,
    ...(genericPlans
      ? [`set_config('plan_cache_mode', 'force_generic_plan', true)`, `set_config('jit', 'off', true)`]
      : []),
  ].join(', ');
}

export interface PoolOptions extends StatementSettings {
  url: string;
  /** Shown in `pg_stat_activity`, so that an operator sees who is busy. */
  name: string;
  connections: number;
  /** Longest wait for a connection, in ms. */
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
    // Idle connections are kept: a new one costs 50 ms on a busy server, to authenticate and to plan its statements, and
    // would be needed just when there is a burst.
    idleTimeoutMillis: 0,
  });
  // An error event that nobody listens to ends the process. The pool tells of an idle connection that breaks, and the next
  // query opens a new one. A connection that was just handed out needs a listener from the beginning: the server's last
  // message may come in one packet with the one that made the connection ready. The query that fails reports the same.
  pool.on('error', () => undefined).on('connect', (client) => client.on('error', () => undefined));
  return pool;
}

/**
 * A few connections with one purpose, so that work of one kind never waits for connections that another kind holds: a
 * slow history query cannot keep publishes from committing. Its statements may concern many tenants; for those of one
 * tenant there is TenantPool.
 */
export class Pool {
  readonly #pool: pg.Pool;
  readonly #prepared: boolean;
  readonly #settings: LocalSettings;

  constructor(options: PoolOptions) {
    this.#prepared = options.preparedStatements;
    const text = `select ${sqlOfSettings(options)}`;
    this.#settings = { statement: { name: 'statement_settings', text }, values: [] };
    this.#pool = connectionsTo(options);
  }

  /** Runs one statement and returns its rows. Throws the driver's error; see `isConnectionLoss`. */
  async rows<Row extends pg.QueryResultRow>(
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    return await onConnection(this.#pool, (client) =>
      runStatement<Row>(client, this.#settings, statement, values, this.#prepared),
    );
  }

  /** Runs `work` in one transaction on one connection. */
  async transaction<Result>(work: (run: Pool['rows']) => Promise<Result>): Promise<Result> {
    const begin = `begin; ${this.#settings.statement.text}`;
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
      // Should the rollback fail too, the first error is the one to report.
      await client.query('rollback').catch(() => {
        throw error;
      });
      return { error };
    }
  });
  if ('error' in done) throw done.error;
  return done.result;
}

/** A statement that sets server settings for the one that follows it, and only for that one. */
export interface LocalSettings {
  readonly statement: Statement;
  readonly values: readonly string[];
}

/**
 * Runs a statement with settings of its own, on one connection, and resolves to its rows.
 *
 * @param isPrepared whether both are sent as prepared statements
 */
export async function runStatement<Row extends pg.QueryResultRow>(
  client: pg.ClientBase,
  settings: LocalSettings,
  statement: Statement,
  values: readonly unknown[],
  isPrepared: boolean,
): Promise<Row[]> {
  return await new Promise<Row[]>((resolve, reject) => {
    client.query(
      new QueryWithSettings<Row>(settings, statement, values, isPrepared, (error, result) =>
        // The driver calls with null for no error.
        error ? reject(error) : resolve(result.rows),
      ),
    );
  });
}

declare module 'pg' {
  /* What the driver calls on every query, and its types leave out. */
  interface Query {
    name?: string | undefined;
    queryMode?: 'extended' | undefined;
    prepare(connection: pg.Connection): void;
    handleDataRow(message: object): void;
    handleCommandComplete(message: object, connection: pg.Connection): void;
  }
}

/** Connections on which the settings of their pool are a prepared statement already. */
const prepared = new WeakSet<pg.Connection>();

/**
 * A statement and, in front of it, its settings: two statements before one Sync, which PostgreSQL runs as one transaction
 * ("Pipelining", § 54.2.4 of its manual). So the settings end with the statement, and a pooler cannot put another session
 * between the two. It takes one round trip, like the statement alone. The rows of the settings are dropped.
 */
class QueryWithSettings<Row extends pg.QueryResultRow> extends pg.Query<Row> {
  readonly #settings: LocalSettings;
  readonly #prepared: boolean;
  /** Whether the settings have been answered, so that what comes next is the answer to the statement. */
  #areSet = false;

  constructor(
    settings: LocalSettings,
    { name, text }: Statement,
    values: readonly unknown[],
    isPrepared: boolean,
    done: (error: Error | undefined, result: pg.ResultBuilder<Row>) => void,
  ) {
    // Not as one object: the driver copies that by the descriptors of its properties, which takes ten times as long.
    super(text, [...values], done);
    if (isPrepared) this.name = name;
    // Without values the driver would use the simple protocol, and the statement would get a transaction of its own.
    else this.queryMode = 'extended';
    this.#settings = settings;
    this.#prepared = isPrepared;
  }

  override prepare(connection: pg.Connection): void {
    const { statement, values } = this.#settings;
    const name = this.#prepared ? statement.name : '';
    // If the settings fail, so does the statement behind them, and the connection is closed.
    if (!this.#prepared || !prepared.has(connection))
      connection.parse({ name, text: statement.text, types: [] }, true);
    if (this.#prepared) prepared.add(connection);
    connection.bind({ statement: name, values: [...values] }, true);
    connection.execute({}, true);
    super.prepare(connection);
  }

  override handleDataRow(message: object): void {
    if (this.#areSet) super.handleDataRow(message);
  }

  override handleCommandComplete(message: object, connection: pg.Connection): void {
    if (this.#areSet) super.handleCommandComplete(message, connection);
    this.#areSet = true;
  }
}
