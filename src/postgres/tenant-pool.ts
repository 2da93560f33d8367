import pg from 'pg';
import type { TenantId } from '../core/identifiers.ts';
import { connectionsTo, failureOf, inTransaction, onConnection, type PoolOptions } from './pool.ts';
import { ask, sqlOfLimits, type Statement } from './prefaced-query.ts';
import { KeyedSemaphore } from '../concurrency/keyed-semaphore.ts';

/** Runs a statement of one tenant, which is its `$1`: the values begin at `$2`. */
export type RunOfTenant = <Row extends pg.QueryResultRow>(
  tenantId: TenantId,
  statement: Statement,
  values?: readonly unknown[],
) => Promise<Row[]>;

/** Why the database, which answers, does not do what it is asked: the SQLSTATE, and since when (RFC 3339). */
export interface Failure {
  readonly error: string;
  readonly since: string;
}

/**
 * Connections of the service's login, to which row-level security shows the rows of one tenant at a time and, unless a
 * tenant is named, of none. The tenant is named with each statement or transaction and is forgotten with it, so that
 * nothing is left on a connection that the next one of another tenant gets.
 */
export class TenantPool {
  readonly #pool: pg.Pool;
  readonly #prepared: boolean;
  /** Half of the connections for one tenant, so that there is one for another, whatever the first asks for. */
  readonly #turns: KeyedSemaphore<TenantId>;
  readonly #limits: string;
  readonly #nameTenant: Statement;
  #failure: Failure | undefined;

  constructor(options: PoolOptions) {
    this.#prepared = options.preparedStatements;
    this.#limits = sqlOfLimits(options);
    this.#nameTenant = {
      name: 'name_tenant',
      text: `select set_config('${TENANT_SETTING}', $1, true), ${this.#limits}`,
    };
    this.#pool = connectionsTo(options);
    this.#turns = new KeyedSemaphore(Math.ceil(options.connections / 2), options.connectTimeoutMs);
  }

  /** Runs one statement and returns its rows. Throws the driver's error, or NoTurn; see `isConnectionLoss`, `isUnavailable`. */
  async rows<Row extends pg.QueryResultRow>(
    tenantId: TenantId,
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    const preface = { statement: this.#nameTenant, values: [tenantId] };
    try {
      const rows = await this.#turns.run(tenantId, () =>
        onConnection(this.#pool, (client) =>
          ask<Row>(client, preface, statement, [tenantId, ...values], this.#prepared),
        ),
      );
      if (statement.stores === true && rows.length > 0) this.#failure = undefined;
      return rows;
    } catch (error) {
      const code = failureOf(error);
      if (code !== undefined)
        this.#failure = { error: code, since: this.#failure?.since ?? new Date().toISOString() };
      throw error;
    }
  }

  /** What the database could not do last, and since when nothing was stored, whichever tenant it was for. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** Runs `work` in one transaction of one tenant. */
  async transaction<Result>(
    tenantId: TenantId,
    work: (run: RunOfTenant) => Promise<Result>,
  ): Promise<Result> {
    const begin = `begin; select set_config('${TENANT_SETTING}', ${pg.escapeLiteral(tenantId)}, true), ${this.#limits}`;
    const runOn =
      (client: pg.PoolClient): RunOfTenant =>
      async <Row extends pg.QueryResultRow>(
        named: TenantId,
        statement: Statement,
        values?: readonly unknown[],
      ) => {
        if (named !== tenantId) throw new Error(`a transaction of one tenant was asked about another`);
        const { rows } = await client.query<Row>(statement.text, [tenantId, ...(values ?? [])]);
        return rows;
      };
    return await this.#turns.run(tenantId, () =>
      inTransaction(this.#pool, begin, (client) => work(runOn(client))),
    );
  }

  /** Waits for running statements and closes the connections. */
  async end(): Promise<void> {
    await this.#pool.end();
  }
}

/** What the policies of the tables compare `tenant_id` with. */
export const TENANT_SETTING = 'tidings.tenant';
