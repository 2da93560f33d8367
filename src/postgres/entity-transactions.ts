import type pg from 'pg';
import { QueryFailedError, type DataSource, type EntityManager } from 'typeorm';
import type { TenantId } from '../core/identifiers.ts';
import { isConnectionLoss } from './errors.ts';
import { sqlOfSettings, type StatementSettings, type Statement } from './pool.ts';
import { TENANT_SETTING, type RunOfTenant } from './tenant-pool.ts';
import { KeyedSemaphore } from '../concurrency/pacing.ts';

/*
 * Transactions of TypeORM, for the tables that are edited row by row: each change there is made together with its record
 * in the audit log (docs/adr/0013-registries-are-entities.md).
 */

export interface EntityTransactionOptions extends Pick<StatementSettings, 'statementTimeoutMs'> {
  readonly connections: number;
  readonly connectTimeoutMs: number;
}

/** The name of the data source of the cross-tenant login. That of the service's login is the default. */
export const CROSS_TENANT = 'cross-tenant';

/** One transaction of one tenant. */
export interface TenantTransaction {
  readonly entities: EntityManager;
  /** For what is said better in SQL. */
  readonly run: RunOfTenant;
}

/**
 * Values for an update of a row that every node keeps in memory: the change feed finds the row by its transaction
 * (docs/adr/0004-changes-by-transaction.md).
 */
export const WRITTEN_NOW = {
  updatedAt: () => 'now()',
  transaction: () => 'pg_current_xact_id()',
} as const;

/**
 * Transactions by the service's login. Row-level security shows it the rows of the tenant that the transaction names, and
 * the name is forgotten with the transaction.
 */
export class TenantTransactions {
  readonly #source: DataSource;
  readonly #preface: string;
  /** Half of the connections for one tenant, so that there is one for another, whatever the first asks for. */
  readonly #turns: KeyedSemaphore<TenantId>;

  constructor(source: DataSource, options: EntityTransactionOptions) {
    this.#source = source;
    this.#preface = `select set_config('${TENANT_SETTING}', $1, true), ${sqlOfSettings(options)}`;
    this.#turns = new KeyedSemaphore(Math.ceil(options.connections / 2), options.connectTimeoutMs);
  }

  /** Throws the driver's error; see `isUnavailable`. */
  async transaction<Result>(
    tenantId: TenantId,
    work: (transaction: TenantTransaction) => Promise<Result>,
  ): Promise<Result> {
    const preface = { text: this.#preface, values: [tenantId] };
    return await this.#turns.run(tenantId, () =>
      inTransaction(this.#source, preface, (entities) =>
        work({ entities, run: statementsOf(entities, tenantId) }),
      ),
    );
  }
}

/** Transactions by the cross-tenant login, on what belongs to no tenant. */
export class CrossTenantTransactions {
  readonly #source: DataSource;
  readonly #preface: string;

  constructor(source: DataSource, options: Pick<EntityTransactionOptions, 'statementTimeoutMs'>) {
    this.#source = source;
    this.#preface = `select ${sqlOfSettings(options)}`;
  }

  /** Throws the driver's error; see `isUnavailable`. */
  async transaction<Result>(work: (entities: EntityManager) => Promise<Result>): Promise<Result> {
    return await inTransaction(this.#source, { text: this.#preface, values: [] }, work);
  }
}

function statementsOf({ queryRunner }: EntityManager, tenantId: TenantId): RunOfTenant {
  return async <Row extends pg.QueryResultRow>(
    named: TenantId,
    { text }: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> => {
    if (named !== tenantId) throw new Error('a transaction of one tenant was asked about another');
    if (queryRunner === undefined) throw new Error('a transaction has a connection');
    // Structured, since TypeORM answers with the rows alone to some commands and to others not.
    const { records } = await queryRunner.query(text, [tenantId, ...values], true);
    return records;
  };
}

/**
 * As `inTransaction` of pool.ts. TypeORM has one of its own, which gives a connection back to the pool whatever was left on
 * it: after a time-out of the driver the next transaction would wait behind the statement of this one.
 *
 * @param preface what the transaction begins with: settings that end with it
 */
async function inTransaction<Result>(
  source: DataSource,
  preface: { readonly text: string; readonly values: readonly unknown[] },
  work: (entities: EntityManager) => Promise<Result>,
): Promise<Result> {
  const runner = source.createQueryRunner();
  const client: pg.ClientBase & Pick<pg.Client, 'end'> = await runner.connect();
  // Once its connection has died, TypeORM says of every statement only that it comes too late.
  let death: Error | undefined;
  const onDeath = (error: Error): void => {
    death ??= error;
  };
  client.on('error', onDeath);
  try {
    await runner.startTransaction();
    await runner.query(preface.text, [...preface.values]);
    const result = await work(runner.manager);
    await runner.commitTransaction();
    return result;
  } catch (error) {
    const cause: unknown = death ?? (error instanceof QueryFailedError ? error.driverError : error);
    const isOver =
      !isConnectionLoss(cause) &&
      (await runner.rollbackTransaction().then(
        () => true,
        () => false,
      ));
    // The pool drops a connection that has been ended.
    if (!isOver) void client.end().catch(() => undefined);
    throw cause;
  } finally {
    client.off('error', onDeath);
    await runner.release();
  }
}
