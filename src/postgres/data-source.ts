import { DataSource, type DataSourceOptions } from 'typeorm';
import { migrations } from '../../migrations/migrations.ts';
import { connectionConfig, type ConnectionOptions } from './connection.ts';

/** TypeORM's view of the database: migrations, and the plain tables that are edited row by row. */
export function dataSourceOptions(connection: ConnectionOptions) {
  return {
    type: 'postgres',
    // Not as its own settings: it has a way of its own to read a URL, and sends what poolers refuse.
    extra: connectionConfig(connection),
    migrations,
    // One transaction each: a migration that fails leaves those before it in place, and itself no trace.
    migrationsTransactionMode: 'each',
    migrationsTableName: 'migrations',
    synchronize: false,
    logging: false,
    // Its other loggers write to standard output, which belongs to the structured log.
    logger: 'debug',
  } as const satisfies DataSourceOptions;
}

/** A data source that is not connected yet. */
export function createDataSource(url: string): DataSource {
  return new DataSource({ ...dataSourceOptions({ url, name: 'tidings migrate' }), poolSize: 1 });
}
