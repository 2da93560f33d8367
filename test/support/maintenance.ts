import pg from 'pg';
import type { Config } from '../../src/core/config.ts';
import { type Partitioned, PartitionsStore, Partitions } from '../../src/log/partitions.ts';
import { positionOfTime, type Position } from '../../src/core/position.ts';
import { Maintenance } from '../../src/maintenance/maintenance.ts';
import { SessionsStore } from '../../src/maintenance/round.store.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { createDatabase, settingsOf, type TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { testConfig, type TestSettings } from './settings.ts';
import { TEST_SECRET } from './tokens.ts';
import { MaintenancePool } from '../../src/postgres/pools.ts';

/** What one node brings to maintenance. */
export interface MaintenanceNode {
  readonly pool: MaintenancePool;
  readonly store: PartitionsStore;
  readonly partitions: Partitions;
  readonly maintenance: Maintenance;
  readonly metrics: Metrics;
}

/** A database whose log is as old as a test wants it. */
export class OldLog {
  readonly #pools: MaintenancePool[] = [];
  readonly #clients: pg.Client[] = [];

  private constructor(readonly database: TestDatabase) {}

  static async open(): Promise<OldLog> {
    return new OldLog(await createDatabase());
  }

  node(settings: TestSettings = {}): MaintenanceNode {
    const config: Config = testConfig({
      ...settingsOf(this.database),
      JWT_SECRET: TEST_SECRET,
      ...settings,
    });
    const pool = new MaintenancePool(config);
    this.#pools.push(pool);
    const store = new PartitionsStore(pool);
    const partitions = new Partitions(store, config);
    const metrics = new Metrics();
    const maintenance = new Maintenance(pool, partitions, store, new SessionsStore(pool), metrics, config);
    return { pool, store, partitions, maintenance, metrics };
  }

  /** A session of its own, for transactions that stay open. */
  async client(url = this.database.url): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => undefined);
    this.#clients.push(client);
    await client.connect();
    return client;
  }

  async tenant(tenantId: string, { keptDays = null }: { keptDays?: number | null } = {}): Promise<void> {
    await this.database.query('insert into tenants (tenant_id, kept_days) values ($1, $2)', [
      tenantId,
      keptDays,
    ]);
    await this.database.query('insert into tenant_logs (tenant_id) values ($1)', [tenantId]);
  }

  /** A notification of `tenantId` to everyone at `position`, whose partition is there. */
  async notification(tenantId: string, position: Position): Promise<void> {
    await this.database.query(
      `insert into notifications (tenant_id, position, id, type, data, size, publisher)
       values ($1, $2, gen_random_uuid(), 'test', '1', 1, 'test')`,
      [tenantId, position],
    );
    await this.database.query('update tenant_logs set head = greatest(head, $2) where tenant_id = $1', [
      tenantId,
      position,
    ]);
  }

  async floor(tenantId: string): Promise<number | undefined> {
    const [row] = await this.database.query<{ floor: number }>(
      'select floor from tenant_logs where tenant_id = $1',
      [tenantId],
    );
    return row?.floor;
  }

  /** Names of the partitions of a table, as statements see them. */
  async partitionsOf(table: Partitioned): Promise<string[]> {
    const rows = await this.database.query<{ name: string }>(
      `select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
       where i.inhparent = $1::regclass order by 1`,
      [table],
    );
    return rows.map(({ name }) => name);
  }

  async hasTable(name: string): Promise<boolean> {
    const [row] = await this.database.query<{ there: boolean }>(
      'select to_regclass($1) is not null as there',
      [name],
    );
    return row?.there === true;
  }

  /** Resolves to the process that runs a statement like this and waits for a lock. */
  async waiting(statement: string): Promise<number> {
    return await eventually(async () => {
      const [row] = await this.database.query<{ pid: number }>(
        `select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database() and query ilike $1`,
        [`%${statement}%`],
      );
      if (row === undefined) throw new Error(`nobody waits with ${statement}`);
      return row.pid;
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.end()));
    await Promise.all(this.#pools.map((pool) => pool.end()));
    await this.database.drop();
  }
}

/** The position of `days` before now. */
export const daysAgo = (days: number): Position => positionOfTime(Date.now() - days * 86_400_000);
