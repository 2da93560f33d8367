import { Inject, Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { CONFIG, type Config } from '../core/config.ts';
import { engineUrl } from '../core/settings.ts';
import { Pool } from './pool.ts';

/** A sweep of a large database. */
const LONGEST_STATEMENT_MS = 600_000;

/**
 * Whoever waits for a lock holds up all that come behind. Longer than PostgreSQL's `deadlock_timeout` (1 s), after
 * which an autovacuum that is in the way gives in.
 */
export const LOCK_TIMEOUT_MS = 2_000;

/**
 * Connections for partitions, retention and sweeps: their statements may run for minutes, longer than any request's
 * may, and never wait long for a lock. Two: one for the round of maintenance, one for a partition that a publish
 * waits for meanwhile.
 */
@Injectable()
export class MaintenancePool extends Pool implements OnApplicationShutdown {
  constructor(@Inject(CONFIG) config: Pick<Config, 'DATABASE_ENGINE_URL' | 'DATABASE_CONNECT_TIMEOUT_MS'>) {
    super({
      url: engineUrl(config),
      name: 'maintenance',
      connections: 2,
      connectTimeoutMs: config.DATABASE_CONNECT_TIMEOUT_MS,
      statementTimeoutMs: LONGEST_STATEMENT_MS,
      lockTimeoutMs: LOCK_TIMEOUT_MS,
      // Most of it are definitions, each of them run once.
      preparedStatements: false,
    });
  }

  async onApplicationShutdown(): Promise<void> {
    await this.end();
  }
}
