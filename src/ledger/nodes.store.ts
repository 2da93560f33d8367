import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import type { Statement } from '../database/pool.ts';
import { EnginePool } from '../database/pools.ts';

/** A node that was not seen for so long is taken for dead. It reports with every poll of the log (LOG_POLL_MS). */
export const NODE_SILENCE_SECONDS = 10;
/** The same in SQL. */
export const NODE_SILENCE = `interval '${NODE_SILENCE_SECONDS} seconds'`;

/** Another process that has the name of this one. */
export interface Rival {
  /** Its last sign of life, in ms since 1970. */
  readonly seenAt: number;
  /** How long ago that is, in seconds. */
  readonly silent: number;
}

/* The name is free when its process has left it, or was silent for so long that it is taken for dead. */
const NODE_STARTED: Statement = {
  name: 'node_started',
  text: `
with taken as (
  insert into nodes (node, instance) values ($1, $2)
  on conflict (node) do update set instance = excluded.instance, started_at = now(), seen_at = now()
    where nodes.instance is null or nodes.instance = excluded.instance or nodes.seen_at < now() - ${NODE_SILENCE}
  returning node
)
select (extract(epoch from seen_at) * 1000)::float8 as "seenAt", extract(epoch from now() - seen_at)::float8 as silent
from nodes where node = $1 and not exists (select from taken)`,
};

const NODE_SEEN: Statement = {
  name: 'node_seen',
  text: `
insert into nodes (node, instance) values ($1, $2)
on conflict (node) do update set seen_at = clock_timestamp(), instance = excluded.instance
  where nodes.instance is null or nodes.instance = excluded.instance
returning node`,
};

const NODE_LEFT: Statement = {
  name: 'node_left',
  text: `update nodes set instance = null where node = $1 and instance = $2`,
};

/** The nodes of this service. They belong to no tenant. */
@Injectable()
export class NodesStore {
  /** This process, among all that ever had its name. */
  readonly #instance = randomUUID();

  constructor(private readonly pool: EnginePool) {}

  /**
   * Once per process: takes the name, and says that what an earlier process of this name left open ended before this.
   * Nothing was taken when another one that may be alive has it: that one is returned.
   */
  async started(node: string): Promise<Rival | undefined> {
    const [rival] = await this.pool.rows<Rival & Record<string, unknown>>(NODE_STARTED, [
      node,
      this.#instance,
    ]);
    return rival;
  }

  /**
   * Repeatedly: should the node die without a word, its connections ended about now. False: another process has taken
   * the name while this one was silent.
   */
  async seen(node: string): Promise<boolean> {
    return (await this.pool.rows(NODE_SEEN, [node, this.#instance])).length > 0;
  }

  /** The last sign: the name is free at once. */
  async left(node: string): Promise<void> {
    await this.pool.rows(NODE_LEFT, [node, this.#instance]);
  }
}
