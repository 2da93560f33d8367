import { Injectable } from '@nestjs/common';
import type { Statement } from '../database/pool.ts';
import { EnginePool } from '../database/pools.ts';

const NODE_STARTED: Statement = {
  name: 'node_started',
  text: `insert into nodes (node) values ($1) on conflict (node) do update set started_at = now(), seen_at = now()`,
};

const NODE_SEEN: Statement = {
  name: 'node_seen',
  text: `insert into nodes (node) values ($1) on conflict (node) do update set seen_at = now()`,
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
