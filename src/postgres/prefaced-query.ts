import pg from 'pg';

/** One SQL statement, named so that PostgreSQL parses and plans it once per connection. */
export interface Statement {
  readonly name: string;
  readonly text: string;
  /** Whether a row in its answer means that something is stored. */
  readonly stores?: true;
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

/** What goes in front of a statement: settings that end with it. */
export interface Preface {
  readonly statement: Statement;
  readonly values: readonly string[];
}

/** Connections that know the preface of their pool. */
const prepared = new WeakSet<pg.Connection>();

/**
 * A statement with a preface: two statements before one Sync, which PostgreSQL runs as one transaction of its own
 * ("Pipelining", § 54.2.4 of its manual), so that what the preface sets ends with the statement, and a pooler cannot put
 * another session between them. One round trip, as without it. The answer to the preface is swallowed.
 */
export class PrefacedQuery<Row extends pg.QueryResultRow> extends pg.Query<Row> {
  readonly #preface: Preface;
  readonly #prepared: boolean;
  #isOver = false;

  constructor(
    preface: Preface,
    { name, text }: Statement,
    values: readonly unknown[],
    isPrepared: boolean,
    done: (error: Error | undefined, result: pg.ResultBuilder<Row>) => void,
  ) {
    // Not as one object: the driver copies that by the descriptors of its properties, which takes ten times as long.
    super(text, [...values], done);
    if (isPrepared) this.name = name;
    // Without values the driver would send it as text, which has a transaction of its own.
    else this.queryMode = 'extended';
    this.#preface = preface;
    this.#prepared = isPrepared;
  }

  override prepare(connection: pg.Connection): void {
    const { statement, values } = this.#preface;
    const name = this.#prepared ? statement.name : '';
    // Should it fail, so does the statement behind it, and the connection is closed.
    if (!this.#prepared || !prepared.has(connection))
      connection.parse({ name, text: statement.text, types: [] }, true);
    if (this.#prepared) prepared.add(connection);
    connection.bind({ statement: name, values: [...values] }, true);
    connection.execute({}, true);
    super.prepare(connection);
  }

  override handleDataRow(message: object): void {
    if (this.#isOver) super.handleDataRow(message);
  }

  override handleCommandComplete(message: object, connection: pg.Connection): void {
    if (this.#isOver) super.handleCommandComplete(message, connection);
    this.#isOver = true;
  }
}

/** Limits of a statement, or of a transaction. */
export interface Limits {
  statementTimeoutMs: number;
  /** Longest wait for one lock; without it only the statement's own limit ends the wait. */
  lockTimeoutMs?: number;
  /**
   * Prepared statements are planned once for all values. The server, which compares estimates, went on to plan large ones each
   * time, for 3 to 5 ms. Test such statements by their generic plan. Default: as the server likes.
   */
  genericPlans?: boolean;
}

/**
 * The limits as SQL, a list for a `select` of the transaction that they hold for. They are not told when the connection is
 * made: PgBouncer refuses that, and behind it statements of several pools would meet in one session.
 */
export function sqlOfLimits({ statementTimeoutMs, lockTimeoutMs = 0, genericPlans = false }: Limits): string {
  return [
    `set_config('statement_timeout', '${statementTimeoutMs}', true)`,
    `set_config('lock_timeout', '${lockTimeoutMs}', true)`,
    ...(genericPlans ? [`set_config('plan_cache_mode', 'force_generic_plan', true)`] : []),
  ].join(', ');
}

/** Asks on one connection and resolves to the rows. */
export async function ask<Row extends pg.QueryResultRow>(
  client: pg.ClientBase,
  preface: Preface,
  statement: Statement,
  values: readonly unknown[],
  isPrepared: boolean,
): Promise<Row[]> {
  return await new Promise<Row[]>((resolve, reject) => {
    client.query(
      new PrefacedQuery<Row>(preface, statement, values, isPrepared, (error, result) =>
        // The driver calls with null for no error.
        error ? reject(error) : resolve(result.rows),
      ),
    );
  });
}
