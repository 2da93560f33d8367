import { Injectable } from '@nestjs/common';
import type { Statement } from '../database/pool.ts';
import { EnginePool } from '../database/pools.ts';

/** A node that was not seen for so long is taken for dead. It reports with every poll of the log (LOG_POLL_MS). */
export const NODE_SILENCE_SECONDS = 10;
/** The same in SQL. */
export const NODE_SILENCE = `interval '${NODE_SILENCE_SECONDS} seconds'`;

const NODE_STARTED: Statement = {
  name: 'node_started',
  text: `insert into nodes (node) values ($1) on conflict (node) do update set started_at = now(), seen_at = now()`,
};

const NODE_SEEN: Statement = {
  name: 'node_seen',
  text: `insert into nodes (node) values ($1) on conflict (node) do update set seen_at = clock_timestamp()`,
};

/** The nodes of this service. They belong to no tenant. */
@Injectable()
export class NodesStore {
  constructor(private readonly pool: EnginePool) {}

  /** Once per process: a connection that an earlier process of this name left open ended before this. */
  async started(node: string): Promise<void> {
    await this.pool.rows(NODE_STARTED, [node]);
  }

  /** Repeatedly: should the node die without a word, its connections ended about now. */
  async seen(node: string): Promise<void> {
    await this.pool.rows(NODE_SEEN, [node]);
  }
}
