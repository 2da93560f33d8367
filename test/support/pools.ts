import type pg from 'pg';
import { DataSource } from 'typeorm';
import { AuditEntity } from '../../src/audit/audit.store.ts';
import { IssuerEntity } from '../../src/auth/issuers.ts';
import { dataSourceOptions } from '../../src/postgres/connection.ts';
import { CrossTenantTransactions, TenantTransactions } from '../../src/postgres/entity-transactions.ts';
import { MaintenancePool } from '../../src/postgres/pools.ts';
import { Pool, type PoolOptions, type Statement } from '../../src/postgres/pool.ts';
import { TenantPool, type RunOfTenant } from '../../src/postgres/tenant-pool.ts';
import type { TenantId } from '../../src/core/identifiers.ts';
import { TenantEntity } from '../../src/tenants/tenants.ts';
import { Bus } from '../../src/cluster/bus.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { settingsOf, type DatabasePlace } from './database.ts';
import { testConfig } from './settings.ts';

/** The bus of a node that is alone. */
export const loneBus = (): Bus => new Bus(new Metrics(), testConfig({}));

/** A statement that was run, with all its values. */
export interface Ran {
  readonly statement: Statement;
  readonly values: readonly unknown[];
  /** Undefined: by the engine's login, for no tenant in particular. */
  readonly tenantId: TenantId | undefined;
}

class RecordingTenantPool extends TenantPool {
  constructor(
    options: PoolOptions,
    private readonly ran: Ran[],
  ) {
    super(options);
  }

  override async rows<Row extends pg.QueryResultRow>(
    tenantId: TenantId,
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    this.ran.push({ statement, values: [tenantId, ...values], tenantId });
    return await super.rows<Row>(tenantId, statement, values);
  }

  override async transaction<Result>(
    tenantId: TenantId,
    work: (run: RunOfTenant) => Promise<Result>,
  ): Promise<Result> {
    return await super.transaction(tenantId, (run) =>
      work(
        async <Row extends pg.QueryResultRow>(
          named: TenantId,
          statement: Statement,
          values: readonly unknown[] = [],
        ) => {
          this.ran.push({ statement, values: [tenantId, ...values], tenantId });
          return await run<Row>(named, statement, values);
        },
      ),
    );
  }
}

class RecordingPool extends Pool {
  constructor(
    options: PoolOptions,
    private readonly ran: Ran[],
  ) {
    super(options);
  }

  override async rows<Row extends pg.QueryResultRow>(
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    this.ran.push({ statement, values, tenantId: undefined });
    return await super.rows<Row>(statement, values);
  }
}

/** Pools of both logins, as stores take them. */
export interface TestPools {
  /** Of the service's login. */
  readonly tenant: TenantPool;
  /** Of the engine's login. */
  readonly engine: Pool;
  /** What ran, but for transactions of the engine. */
  readonly ran: Ran[];
  readonly end: () => Promise<void>;
}

export function openPools({ urls }: DatabasePlace, connections = 4): TestPools {
  const options = {
    name: 'test',
    connections,
    connectTimeoutMs: 60_000,
    statementTimeoutMs: 60_000,
    preparedStatements: true,
  };
  const ran: Ran[] = [];
  const tenant = new RecordingTenantPool({ ...options, url: urls.service }, ran);
  const engine = new RecordingPool({ ...options, url: urls.crossTenant }, ran);
  return { tenant, engine, ran, end: async () => void (await Promise.all([tenant.end(), engine.end()])) };
}

/** The transactions in which administrators edit the registries. */
export interface TestTransactions {
  readonly tenants: TenantTransactions;
  readonly registry: CrossTenantTransactions;
  readonly end: () => Promise<void>;
}

export async function openTransactions(
  { urls }: DatabasePlace,
  { connections = 4, statementTimeoutMs = 60_000, answerTimeoutMs = 60_000 } = {},
): Promise<TestTransactions> {
  const open = (url: string, entities: Function[]) =>
    new DataSource({
      ...dataSourceOptions({ url, name: 'tidings test', connectTimeoutMs: 60_000, answerTimeoutMs }),
      entities,
      poolSize: connections,
    }).initialize();
  const service = await open(urls.service, [TenantEntity, AuditEntity]);
  const engine = await open(urls.crossTenant, [IssuerEntity, AuditEntity]);
  const options = { connections, connectTimeoutMs: 60_000, statementTimeoutMs };
  return {
    tenants: new TenantTransactions(service, options),
    registry: new CrossTenantTransactions(engine, options),
    end: async () => void (await Promise.all([service.destroy(), engine.destroy()])),
  };
}

export const openMaintenancePool = (place: DatabasePlace): MaintenancePool =>
  new MaintenancePool({ ...settingsOf(place), DATABASE_CONNECT_TIMEOUT_MS: 60_000 });
