import { Inject, Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { type Config, CONFIG, engineUrl } from '../core/config.ts';
import { Pool, type Statement } from '../postgres/pool.ts';
/** A database that answers more slowly than this counts as away, in ms. */
const PROBE_TIMEOUT_MS = 1_000;

const LAST_MIGRATION: Statement = {
  name: 'health_last_migration',
  text: `select coalesce((select max(timestamp) from migrations), 0)::float8 as last`,
};

/** Asks the database on one connection of its own: a probe must not wait behind the work whose health it reports. */
@Injectable()
export class HealthStore implements OnApplicationShutdown {
  readonly #pool: Pool;

  constructor(@Inject(CONFIG) config: Config) {
    this.#pool = new Pool({
      url: engineUrl(config),
      name: 'health',
      connections: 1,
      connectTimeoutMs: PROBE_TIMEOUT_MS,
      statementTimeoutMs: PROBE_TIMEOUT_MS,
      preparedStatements: config.DATABASE_PREPARED_STATEMENTS,
    });
  }

  /** The timestamp in the name of the newest migration that ran. Throws the driver's error. */
  async lastMigration(): Promise<number> {
    const rows = await this.#pool.rows<{ last: number }>(LAST_MIGRATION);
    return rows[0]?.last ?? 0;
  }

  async onApplicationShutdown(): Promise<void> {
    await this.#pool.end();
  }
}
