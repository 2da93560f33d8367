import type pg from 'pg';
import { DataSource, type DataSourceOptions } from 'typeorm';
import { migrations } from '../../migrations/migrations.ts';
import { connectionConfig, type ConnectionOptions } from './connection.ts';

/** How TypeORM reaches the database: as everything else of the service does (connection.ts). */
export function dataSourceOptions(connection: ConnectionOptions) {
  const config = connectionConfig(connection);
  return {
    type: 'postgres',
    // Not as its own settings: it has a way of its own to read a URL, and sends what poolers refuse.
    extra: {
      ...config,
      // As in pool.ts: a connection is kept, and what is said of one that dies while TypeORM does not listen is heard.
      idleTimeoutMillis: 0,
      onConnect: async (client: pg.ClientBase) => {
        client.on('error', () => undefined);
        await config.onConnect(client);
      },
    },
    // The tables are made by migrations, and need no extension.
    synchronize: false,
    installExtensions: false,
    logging: false,
    // Its other loggers write to standard output, which belongs to the structured log.
    logger: 'debug',
  } as const satisfies DataSourceOptions;
}

/** The data source of the migrations. It is not connected yet. */
export function createDataSource(url: string): DataSource {
  return new DataSource({
    ...dataSourceOptions({ url, name: 'tidings migrate' }),
    poolSize: 1,
    migrations,
    // One transaction each: a migration that fails leaves those before it in place, and itself no trace.
    migrationsTransactionMode: 'each',
    migrationsTableName: 'migrations',
  });
}
