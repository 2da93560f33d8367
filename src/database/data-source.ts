import { DataSource, type DataSourceOptions } from 'typeorm';
import { migrations } from '../../migrations/migrations.ts';

/** TypeORM's view of the database: migrations, and the plain tables that are edited row by row. */
export function dataSourceOptions(url: string) {
  return {
    type: 'postgres',
    url,
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
  return new DataSource({ ...dataSourceOptions(url), applicationName: 'tidings migrate', poolSize: 1 });
}
