import pg from 'pg';
import { KeyedSemaphore } from '../concurrency/pacing.ts';
import type { TenantId } from '../core/identifiers.ts';
import { failureOf } from './errors.ts';
import {
  connectionsTo,
  inTransaction,
  onConnection,
  type PoolOptions,
  runStatement,
  sqlOfSettings,
  type Statement,
} from './pool.ts';

/** Runs a statement of one tenant, which is its `$1`: the values begin at `$2`. */
export type RunOfTenant = <Row extends pg.QueryResultRow>(
  tenantId: TenantId,
  statement: Statement,
  values?: readonly unknown[],
) => Promise<Row[]>;

/** A database that answers but stores nothing: the SQLSTATE of its refusal, and since when (RFC 3339). */
export interface Failure {
  readonly error: string;
  readonly since: string;
}

/**
 * Connections of the service role, to which row-level security shows the rows of one tenant at a time, and no rows at all
 * where no tenant is named. Each statement or transaction names its tenant and takes the name with it when it ends, so
 * that nothing of it is left on the connection for the next tenant.
 */
export class TenantPool {
  readonly #pool: pg.Pool;
  readonly #prepared: boolean;
  /** A tenant has at most half of the connections at once, so that one is left for others whatever it asks for. */
  readonly #semaphore: KeyedSemaphore<TenantId>;
  readonly #settings: string;
  readonly #nameTenant: Statement;
  #failure: Failure | undefined;

  constructor(options: PoolOptions) {
    this.#prepared = options.preparedStatements;
    this.#settings = sqlOfSettings(options);
    this.#nameTenant = {
      name: 'name_tenant',
      text: `select set_config('${TENANT_SETTING}', $1, true), ${this.#settings}`,
    };
    this.#pool = connectionsTo(options);
    this.#semaphore = new KeyedSemaphore(Math.ceil(options.connections / 2), options.connectTimeoutMs);
  }

  /** Runs one statement and returns its rows. Throws the driver's error, or AcquireTimeout; see `isConnectionLoss`, `isUnavailable`. */
  async rows<Row extends pg.QueryResultRow>(
    tenantId: TenantId,
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    const settings = { statement: this.#nameTenant, values: [tenantId] };
    try {
      const rows = await this.#semaphore.run(tenantId, () =>
        onConnection(this.#pool, (client) =>
          runStatement<Row>(client, settings, statement, [tenantId, ...values], this.#prepared),
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

  /** The last refusal of the database to store something, for whichever tenant; undefined once a statement has stored again. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** Runs `work` in one transaction of one tenant. */
  async transaction<Result>(
    tenantId: TenantId,
    work: (run: RunOfTenant) => Promise<Result>,
  ): Promise<Result> {
    const begin = `begin; select set_config('${TENANT_SETTING}', ${pg.escapeLiteral(tenantId)}, true), ${this.#settings}`;
    const runOn =
      (client: pg.PoolClient): RunOfTenant =>
      async <Row extends pg.QueryResultRow>(
        asked: TenantId,
        statement: Statement,
        values?: readonly unknown[],
      ) => {
        if (asked !== tenantId) throw new Error(`a transaction of one tenant was asked about another`);
        const { name, text } = statement;
        const named = { ...(this.#prepared ? { name } : {}), text };
        const { rows } = await client.query<Row>(named, [tenantId, ...(values ?? [])]);
        return rows;
      };
    return await this.#semaphore.run(tenantId, () =>
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
