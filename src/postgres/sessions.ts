import type pg from 'pg';
import type { Config } from '../core/config.ts';
import { StartError } from '../core/errors.ts';
import { withConnection } from './connection.ts';

/* How many connections the nodes of a process take, and whether the server has room for them. */

/** Pools of DATABASE_CONNECTIONS_PER_POOL connections each (database.module.ts). */
const POOLS = 5;

/** Connections that a node has beside those pools, by what they are for. Each is opened when it is needed, and kept. */
export const CONNECTIONS = {
  /** What administrators and operators do in a tenant. One tenant has half of them at most. */
  tenantTransactions: 4,
  /** The registry of issuers, which is changed a few times a day. */
  crossTenantTransactions: 2,
  /** The change feed: two, so that one slow read does not use up the time of the next. */
  changes: 2,
  /** One for the round of maintenance, and one for a partition that a publish waits for meanwhile. */
  maintenance: 2,
  health: 1,
  /** Hints between nodes: one to hear, one to announce. */
  bus: 2,
} as const;

const OTHER_CONNECTIONS = Object.values(CONNECTIONS).reduce((sum, connections) => sum + connections, 0);

/** One tenant has at most half of a pool, so that one connection is left for others: that takes two. */
const LEAST_PER_POOL = 2;

type Nodes = Pick<Config, 'WORKERS' | 'DATABASE_CONNECTIONS_PER_POOL'>;

/** Connections in each pool of a worker: its part of DATABASE_CONNECTIONS_PER_POOL. */
export function connectionsPerPool({ WORKERS, DATABASE_CONNECTIONS_PER_POOL: all }: Nodes): number {
  return Math.min(all, Math.max(LEAST_PER_POOL, Math.floor(all / WORKERS)));
}

/** How many connections all nodes of a process take, when all are at work. */
export function connectionsOf(nodes: Nodes): number {
  return nodes.WORKERS * (POOLS * connectionsPerPool(nodes) + OTHER_CONNECTIONS);
}

/**
 * Refuses a start whose nodes would not get all their connections: under load they would be refused one after the other.
 * Behind a pooler the server does not say how many it takes.
 *
 * @throws StartError
 */
export async function checkRoom(url: string, nodes: Nodes): Promise<void> {
  const room = await withConnection({ url, name: 'tidings room' }, roomOf);
  const needed = connectionsOf(nodes);
  if (room === undefined || needed <= room) return;
  const whose = nodes.WORKERS === 1 ? 'this node takes' : `the ${nodes.WORKERS} nodes of WORKERS take`;
  const less = nodes.WORKERS === 1 ? '' : 'WORKERS or ';
  throw new StartError(
    `The database has room for ${room} connections (max_connections, less the reserved ones), and ${whose} up to ${needed}: raise max_connections, or lower ${less}DATABASE_CONNECTIONS_PER_POOL.`,
  );
}

async function roomOf(client: pg.Client): Promise<number | undefined> {
  const { rows } = await client.query<{ room: number; pid: number }>(`
    select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
      - coalesce(current_setting('reserved_connections', true)::int, 0) as room, pg_backend_pid() as pid`);
  const [row] = rows;
  // A pooler tells the driver a process id of its own.
  return row !== undefined && 'processID' in client && client.processID === row.pid ? row.room : undefined;
}
