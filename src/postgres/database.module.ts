import { Global, Inject, Module, type OnApplicationShutdown } from '@nestjs/common';
import { getDataSourceToken, TypeOrmModule } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { type Config, CONFIG, engineUrl, serviceUrl } from '../core/config.ts';
import { DatabaseClock } from './clock.ts';
import { dataSourceOptions } from './connection.ts';
import { CROSS_TENANT, CrossTenantTransactions, TenantTransactions } from './entity-transactions.ts';
import type { PoolOptions } from './pool.ts';
import {
  AppendPool,
  BacklogPool,
  ChangeFeedPool,
  ClientPool,
  CrossTenantPool,
  HistoryPool,
} from './pools.ts';
import { CONNECTIONS } from './sessions.ts';

/** The connections to the database: one pool per kind of work; those for tables that are edited row by row are TypeORM's. */
@Global()
@Module({
  imports: [
    TypeOrmModule.forRootAsync({
      inject: [CONFIG],
      useFactory: (config: Config) => ({
        ...entityOptions(config, serviceUrl(config), 'tenant'),
        poolSize: CONNECTIONS.tenantTransactions,
      }),
    }),
    TypeOrmModule.forRootAsync({
      name: CROSS_TENANT,
      inject: [CONFIG],
      useFactory: (config: Config) => ({
        ...entityOptions(config, engineUrl(config), 'registry'),
        poolSize: CONNECTIONS.crossTenantTransactions,
      }),
    }),
  ],
  providers: [
    DatabaseClock,
    {
      provide: TenantTransactions,
      inject: [getDataSourceToken(), CONFIG],
      useFactory: (source: DataSource, config: Config) =>
        new TenantTransactions(source, {
          connections: CONNECTIONS.tenantTransactions,
          connectTimeoutMs: config.DATABASE_CONNECT_TIMEOUT_MS,
          statementTimeoutMs: config.DATABASE_STATEMENT_TIMEOUT_MS,
        }),
    },
    {
      provide: CrossTenantTransactions,
      inject: [getDataSourceToken(CROSS_TENANT), CONFIG],
      useFactory: (source: DataSource, config: Config) =>
        new CrossTenantTransactions(source, { statementTimeoutMs: config.DATABASE_STATEMENT_TIMEOUT_MS }),
    },
    {
      provide: AppendPool,
      inject: [CONFIG],
      useFactory: (config: Config) =>
        new AppendPool(
          poolOptions(config, serviceUrl(config), 'append', config.DATABASE_CONNECTIONS_PER_POOL),
        ),
    },
    {
      provide: ClientPool,
      inject: [CONFIG],
      useFactory: (config: Config) =>
        new ClientPool({
          ...poolOptions(config, serviceUrl(config), 'clients', config.DATABASE_CONNECTIONS_PER_POOL),
          genericPlans: true,
        }),
    },
    {
      provide: BacklogPool,
      inject: [CONFIG],
      useFactory: (config: Config) =>
        new BacklogPool(
          poolOptions(config, serviceUrl(config), 'backlog', config.DATABASE_CONNECTIONS_PER_POOL),
        ),
    },
    {
      provide: HistoryPool,
      inject: [CONFIG],
      useFactory: (config: Config) =>
        new HistoryPool({
          ...poolOptions(config, serviceUrl(config), 'history', config.DATABASE_CONNECTIONS_PER_POOL),
          genericPlans: true,
        }),
    },
    {
      provide: CrossTenantPool,
      inject: [CONFIG],
      useFactory: (config: Config) =>
        new CrossTenantPool(
          poolOptions(config, engineUrl(config), 'engine', config.DATABASE_CONNECTIONS_PER_POOL),
        ),
    },
    {
      provide: ChangeFeedPool,
      inject: [CONFIG],
      useFactory: (config: Config) => {
        const options = poolOptions(config, engineUrl(config), 'changes', CONNECTIONS.changes);
        return new ChangeFeedPool({
          ...options,
          connectTimeoutMs: Math.min(options.connectTimeoutMs, config.CHANGES_TIMEOUT_MS),
          statementTimeoutMs: Math.min(options.statementTimeoutMs, config.CHANGES_TIMEOUT_MS),
        });
      },
    },
  ],
  exports: [
    AppendPool,
    BacklogPool,
    ChangeFeedPool,
    ClientPool,
    CrossTenantPool,
    CrossTenantTransactions,
    DatabaseClock,
    HistoryPool,
    TenantTransactions,
  ],
})
export class DatabaseModule implements OnApplicationShutdown {
  constructor(
    @Inject(AppendPool) private readonly append: AppendPool,
    @Inject(ClientPool) private readonly clients: ClientPool,
    @Inject(BacklogPool) private readonly backlog: BacklogPool,
    @Inject(HistoryPool) private readonly history: HistoryPool,
    @Inject(CrossTenantPool) private readonly engine: CrossTenantPool,
    @Inject(ChangeFeedPool) private readonly changes: ChangeFeedPool,
  ) {}

  /** The last of the hooks: whoever has something to flush did so in an earlier one. */
  async onApplicationShutdown(): Promise<void> {
    await Promise.all(
      [this.append, this.clients, this.backlog, this.history, this.engine, this.changes].map((pool) =>
        pool.end(),
      ),
    );
  }
}

function entityOptions(config: Config, url: string, name: string) {
  return {
    ...dataSourceOptions({
      url,
      name: `tidings ${name} transactions`,
      connectTimeoutMs: config.DATABASE_CONNECT_TIMEOUT_MS,
      answerTimeoutMs: config.DATABASE_STATEMENT_TIMEOUT_MS + config.DATABASE_CONNECT_TIMEOUT_MS,
    }),
    // Each module names its own (`TypeOrmModule.forFeature`).
    autoLoadEntities: true,
    // The database answered a moment ago; if it went away since, the start should fail soon and say so.
    retryAttempts: 2,
    retryDelay: 500,
  };
}

function poolOptions(config: Config, url: string, name: string, connections: number): PoolOptions {
  return {
    url,
    name,
    connections,
    connectTimeoutMs: config.DATABASE_CONNECT_TIMEOUT_MS,
    statementTimeoutMs: config.DATABASE_STATEMENT_TIMEOUT_MS,
    preparedStatements: config.DATABASE_PREPARED_STATEMENTS,
  };
}
