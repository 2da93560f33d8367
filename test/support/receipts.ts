import pg from 'pg';
import type { MaintenancePool } from '../../src/postgres/pools.ts';
import {
  deviceIdSchema,
  tenantIdSchema,
  topicSchema,
  userIdSchema,
  type DeviceId,
  type TenantId,
  type UserId,
} from '../../src/core/identifiers.ts';
import { AcksStore, type Ack } from '../../src/receipts/acknowledgements.ts';
import {
  DevicesStore,
  type DeviceRegistration,
  type Registered,
  type RegistrationRefusal,
} from '../../src/receipts/devices.store.ts';
import { ReceiptsStore } from '../../src/receipts/receipts.store.ts';
import { PartitionsStore, Partitions } from '../../src/log/partitions.ts';
import { asPosition } from '../../src/core/position.ts';
import { createDatabase, type TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { openMaintenancePool, openPools, type TestPools } from './pools.ts';

/** The stores as one node has them. */
export interface ReceiptsNode {
  readonly pools: TestPools;
  readonly partitions: Partitions;
  readonly arrivals: DevicesStore;
  readonly acks: AcksStore;
  readonly receipts: ReceiptsStore;
}

export const userId = (text: string): UserId => userIdSchema.parse(text);
export const deviceId = (text: string): DeviceId => deviceIdSchema.parse(text);
export const topic = (text: string) => topicSchema.parse(text);

/** A transaction that is open. */
export interface Held {
  /** Resolves when this many statements wait, for it or for one another, to the processes that run them. */
  waiting(count?: number): Promise<number[]>;
  /** Goes on in it. */
  query(sql: string, values: readonly unknown[]): Promise<pg.QueryResultRow[]>;
  commit(): Promise<void>;
}

/** A database with stores on it, and shorthands in plain numbers. */
export class ReceiptsBench {
  readonly #pools = new Set<TestPools | MaintenancePool>();
  #tenants = 0;

  private constructor(readonly database: TestDatabase) {}

  static async open(): Promise<ReceiptsBench> {
    return new ReceiptsBench(await createDatabase());
  }

  node(connections = 4): ReceiptsNode {
    const pools = openPools(this.database, connections);
    const maintenance = openMaintenancePool(this.database);
    this.#pools.add(pools).add(maintenance);
    const partitions = new Partitions(new PartitionsStore(maintenance), {
      PARTITION_HOURS: 24,
      PARTITIONS_AHEAD: 1,
    });
    return {
      pools,
      partitions,
      arrivals: new DevicesStore(pools.tenant, partitions),
      acks: new AcksStore(pools.tenant, partitions),
      receipts: new ReceiptsStore(pools.engine, partitions),
    };
  }

  async tenant({ head = 100, floor = 0 } = {}): Promise<TenantId> {
    this.#tenants += 1;
    const tenantId = tenantIdSchema.parse(`tenant-${this.#tenants}`);
    await this.database.query('insert into tenant_logs (tenant_id, head, floor) values ($1, $2, $3)', [
      tenantId,
      head,
      floor,
    ]);
    return tenantId;
  }

  async setStream(tenantId: TenantId, { head, floor }: { head?: number; floor?: number }): Promise<void> {
    await this.database.query(
      'update tenant_logs set head = coalesce($2, head), floor = coalesce($3, floor) where tenant_id = $1',
      [tenantId, head ?? null, floor ?? null],
    );
  }

  async setCursor(tenantId: TenantId, user: string, device: string, cursor: number): Promise<void> {
    await this.database.query(
      `insert into devices (tenant_id, user_id, device_id, cursor) values ($1, $2, $3, $4)
       on conflict (tenant_id, user_id, device_id) do update set cursor = excluded.cursor`,
      [tenantId, user, device, cursor],
    );
  }

  async cursor(tenantId: TenantId, user: string, device: string): Promise<number | undefined> {
    const [row] = await this.database.query<{ cursor: number }>(
      'select cursor from devices where tenant_id = $1 and user_id = $2 and device_id = $3',
      [tenantId, user, device],
    );
    return row?.cursor;
  }

  /** The acknowledgement intervals of a device, in order. */
  async confirmed(tenantId: TenantId, user: string, device: string): Promise<[from: number, to: number][]> {
    const rows = await this.database.query<{ from_position: number; to_position: number }>(
      'select from_position, to_position from acks where tenant_id = $1 and user_id = $2 and device_id = $3 order by to_position',
      [tenantId, user, device],
    );
    return rows.map((row) => [row.from_position, row.to_position]);
  }

  /** Runs SQL in a transaction that stays open. */
  async hold(sql: string, values: readonly unknown[]): Promise<Held> {
    const holder = new pg.Client({ connectionString: this.database.url });
    await holder.connect();
    await holder.query('begin');
    await holder.query(sql, [...values]);
    return {
      waiting: async (count = 1) =>
        await eventually(async () => {
          const rows = await this.database.query<{ pid: number }>(
            `select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
          );
          if (rows.length < count) throw new Error(`${rows.length} statements wait`);
          return rows.map(({ pid }) => pid);
        }),
      query: async (more, given) => (await holder.query<pg.QueryResultRow>(more, [...given])).rows,
      async commit() {
        await holder.query('commit');
        await holder.end();
      },
    };
  }

  /** Runs SQL in a transaction that is committed as soon as `meanwhile` waits for it. */
  async whileHolding<Result>(
    sql: string,
    values: readonly unknown[],
    meanwhile: () => Promise<Result>,
  ): Promise<Result> {
    const held = await this.hold(sql, values);
    const result = meanwhile();
    try {
      await held.waiting();
    } finally {
      await held.commit();
    }
    return await result;
  }

  /** Takes the database away from a node. */
  async cut(node: ReceiptsNode): Promise<void> {
    this.#pools.delete(node.pools);
    await node.pools.end();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#pools].map((pool) => pool.end()));
    await this.database.drop();
  }
}

/** Those that were not refused. */
export const letIn = (answers: readonly (Registered | RegistrationRefusal)[]): Registered[] =>
  answers.filter((answer) => typeof answer !== 'string');

interface ArrivalInNumbers {
  user?: string;
  device?: string;
  topics?: string[];
  resume?: number | undefined;
  malformed?: boolean;
  from?: DeviceRegistration['from'];
  mostDevices?: number;
}

export function registration({
  user = 'alice',
  device = 'phone',
  topics = [],
  resume,
  malformed = false,
  from = 'undelivered',
  mostDevices = 100,
}: ArrivalInNumbers = {}): DeviceRegistration {
  return {
    user: userId(user),
    device: deviceId(device),
    topics: topics.map(topic),
    resume: resume === undefined ? undefined : asPosition(resume),
    malformed,
    from,
    mostDevices,
  };
}

export function ack(
  upTo: number,
  {
    user = 'alice',
    device = 'phone',
    topics = [],
  }: { user?: string; device?: string; topics?: string[] } = {},
): Ack {
  return { user: userId(user), device: deviceId(device), upTo: asPosition(upTo), topics: topics.map(topic) };
}
