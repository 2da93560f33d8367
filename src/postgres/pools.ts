import { Inject, Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { type Config, CONFIG, engineUrl } from '../core/config.ts';
import { Pool } from './pool.ts';
import { CONNECTIONS } from './sessions.ts';
import { TenantPool } from './tenant-pool.ts';

/* Pools of the service role, which sees one tenant at a time. */

/** What publishing needs: appends, quotas, idempotency records, and the rows of a tenant that is met for the first time. Publishes must not wait for requests of clients. */
export class AppendPool extends TenantPool {}
/** What clients ask for, in short statements: opened streams, acknowledgements, tickets, renewals. */
export class ClientPool extends TenantPool {}
/** Reads of the log for streams. */
export class BacklogPool extends TenantPool {}
/** Queries of operators, exports, and the pages of erasures. */
export class HistoryPool extends TenantPool {}

/* Pools of the cross-tenant role. */

/** What a node does for all its streams at once: it writes receipts, reads the heads of their logs, reports that it lives. Also the registries of the installation. */
export class CrossTenantPool extends Pool {}
/** The change feed. Nothing else uses it: a revocation must not wait behind publishes. */
export class ChangeFeedPool extends Pool {}

/** For a sweep of a large database. */
const MAINTENANCE_STATEMENT_TIMEOUT_MS = 600_000;

/**
 * Longest wait of maintenance for a lock, since everyone who comes later waits behind it. It is longer than PostgreSQL's
 * `deadlock_timeout` (1 s), after which an autovacuum that holds the lock gives it up.
 */
export const LOCK_TIMEOUT_MS = 2_000;

/**
 * Partitions, retention and sweeps: their statements may run for minutes, longer than those of any request, and never wait
 * long for a lock.
 */
@Injectable()
export class MaintenancePool extends Pool implements OnApplicationShutdown {
  constructor(@Inject(CONFIG) config: Pick<Config, 'DATABASE_ENGINE_URL' | 'DATABASE_CONNECT_TIMEOUT_MS'>) {
    super({
      url: engineUrl(config),
      name: 'maintenance',
      connections: CONNECTIONS.maintenance,
      connectTimeoutMs: config.DATABASE_CONNECT_TIMEOUT_MS,
      statementTimeoutMs: MAINTENANCE_STATEMENT_TIMEOUT_MS,
      lockTimeoutMs: LOCK_TIMEOUT_MS,
      // Most of its statements define tables, and each of those runs once.
      preparedStatements: false,
    });
  }

  async onApplicationShutdown(): Promise<void> {
    await this.end();
  }
}
