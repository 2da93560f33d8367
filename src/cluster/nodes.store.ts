import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { CrossTenantPool } from '../postgres/pools.ts';
import { type Statement } from '../postgres/pool.ts';

/** A node that was not seen for so long is taken for dead. It reports with every poll of the log (LOG_POLL_MS). */
export const NODE_SILENCE_SECONDS = 10;
/** The same in SQL. */
const NODE_SILENCE = `interval '${NODE_SILENCE_SECONDS} seconds'`;

/** SQL: whether a node lives. @param node alias of a row of `nodes` */
export const lives = (node: string): string => `${node}.seen_at >= clock_timestamp() - ${NODE_SILENCE}`;

/**
 * SQL: whether a stream is open: it has no end, and its node lives and did not start again since.
 * @param connection alias of a row of `connections`
 */
export const isOpen = (connection: string): string => `${connection}.until is null and exists (
  select from nodes n where n.node = ${connection}.node and n.started_at <= ${connection}.since and ${lives('n')}
)`;

/** The last sign of life of another process that has the name of this one, in microseconds since 1970 by the database's clock. */
export type SeenAt = number;

/** Whether a process has its name: `anew`, what it had opened under that name has ended in the eyes of the others. */
export type Held = 'held' | 'anew' | 'lost';

const MICROSECONDS = `(extract(epoch from nodes.seen_at) * 1000000)::bigint`;

/*
 * The name is free when its process has left it, or was silent for so long that it is taken for dead: by the database's
 * clock, or, should that have been set back, as whoever asks has seen it.
 */
const NODE_STARTED: Statement = {
  name: 'node_started',
  text: `
with taken as (
  insert into nodes (node, instance) values ($1, $2)
  on conflict (node) do update set instance = excluded.instance, started_at = now(), seen_at = now()
    where nodes.instance is null or nodes.instance = excluded.instance or nodes.seen_at < now() - ${NODE_SILENCE}
      or ${MICROSECONDS} = $3::bigint
  returning node
)
select ${MICROSECONDS} as "seenAt" from nodes where node = $1 and not exists (select from taken)`,
};

/*
 * A name that was lost (to a process that has died since, or with what a failover lost) is taken back when it is free. What
 * was opened under it before is taken to have ended, as when a process starts: nobody can tell it from what the other one left.
 */
const NODE_SEEN: Statement = {
  name: 'node_seen',
  text: `
insert into nodes (node, instance) values ($1, $2)
on conflict (node) do update set seen_at = clock_timestamp(), instance = excluded.instance,
    started_at = case when nodes.instance = excluded.instance then nodes.started_at else now() end
  where nodes.instance is null or nodes.instance = excluded.instance
    or nodes.seen_at < clock_timestamp() - ${NODE_SILENCE}
returning started_at = now() as anew`,
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

  constructor(private readonly pool: CrossTenantPool) {}

  /**
   * Once per process: takes the name, and says that what an earlier process of this name left open ended before this.
   * Nothing was taken when another one that may be alive has it: its last sign of life is returned.
   *
   * @param silentSince the last sign of life of another one that was watched for NODE_SILENCE_SECONDS and gave no other
   */
  async started(node: string, silentSince?: SeenAt): Promise<SeenAt | undefined> {
    const [rival] = await this.pool.rows<{ seenAt: SeenAt }>(NODE_STARTED, [
      node,
      this.#instance,
      silentSince ?? null,
    ]);
    return rival?.seenAt;
  }

  /** Repeatedly: should the node die without a word, its connections ended about now. */
  async seen(node: string): Promise<Held> {
    const [row] = await this.pool.rows<{ anew: boolean }>(NODE_SEEN, [node, this.#instance]);
    if (row === undefined) return 'lost';
    return row.anew ? 'anew' : 'held';
  }

  /** The last sign: the name is free at once. */
  async left(node: string): Promise<void> {
    await this.pool.rows(NODE_LEFT, [node, this.#instance]);
  }
}
