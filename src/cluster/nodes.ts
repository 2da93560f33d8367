import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Inject, Logger, Module, type OnModuleInit, Optional } from '@nestjs/common';
import { CrossTenantPool } from '../postgres/pools.ts';
import type { Statement } from '../postgres/pool.ts';
import { CONFIG, INSTANCE, STOP, type Config } from '../core/config.ts';
import { messageOf, StartError } from '../core/errors.ts';

/** A node that was not seen for so long is taken for dead. It reports with every poll of the log (LOG_POLL_MS). */
export const NODE_SILENCE_SECONDS = 10;

/** SQL: whether a node lives. @param node alias of a row of `nodes` */
export const lives = (node: string): string =>
  `${node}.seen_at >= clock_timestamp() - interval '${NODE_SILENCE_SECONDS} seconds'`;

/**
 * SQL: whether a stream is open: it has no end, and its node lives and did not start again since.
 * @param connection alias of a row of `connections`
 */
export const isOpen = (connection: string): string => `${connection}.until is null and exists (
  select from nodes n where n.node = ${connection}.node and n.started_at <= ${connection}.since and ${lives('n')}
)`;

/** The last sign of life of another process that has the name of this one, in microseconds since 1970 by the database's clock. */
type SeenAt = number;

/** Whether a process has its name: `anew`, what it had opened under that name has ended in the eyes of the others. */
type Held = 'held' | 'anew' | 'lost';

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
  on conflict (node) do update set instance = excluded.instance, started_at = now(), seen_at = now(), draining = false
    where nodes.instance is null or nodes.instance = excluded.instance or not (${lives('nodes')})
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
  where nodes.instance is null or nodes.instance = excluded.instance or not (${lives('nodes')})
returning started_at = now() as anew`,
};

const NODE_LEFT: Statement = {
  name: 'node_left',
  text: `update nodes set instance = null where node = $1 and instance = $2`,
};

const OTHERS = `nodes n where n.node <> $1 and n.instance is not null and ${lives('n')}`;

const OTHERS_LIVE: Statement = {
  name: 'node_others',
  text: `select exists (select from ${OTHERS}) as live`,
};

const NODE_DRAINS: Statement = {
  name: 'node_drains',
  text: `
with said as (update nodes set draining = true where node = $1 and instance = $2)
select exists (select from ${OTHERS} and not n.draining) as stay`,
};

/** The nodes of this service. They belong to no tenant. */
@Injectable()
export class NodesStore {
  /** @param instance this process, among all that ever had its name; the same one again has the name at once */
  constructor(
    private readonly pool: CrossTenantPool,
    @Optional() @Inject(INSTANCE) private readonly instance: string = randomUUID(),
  ) {}

  /**
   * Once per process: takes the name, and says that what an earlier process of this name left open ended before this.
   * Nothing was taken when another one that may be alive has it: its last sign of life is returned.
   *
   * @param silentSince the last sign of life of another one that was watched for NODE_SILENCE_SECONDS and gave no other
   */
  async started(node: string, silentSince?: SeenAt): Promise<SeenAt | undefined> {
    const [rival] = await this.pool.rows<{ seenAt: SeenAt }>(NODE_STARTED, [
      node,
      this.instance,
      silentSince ?? null,
    ]);
    return rival?.seenAt;
  }

  /** Repeatedly: should the node die without a word, its connections ended about now. */
  async seen(node: string): Promise<Held> {
    const [row] = await this.pool.rows<{ anew: boolean }>(NODE_SEEN, [node, this.instance]);
    if (row === undefined) return 'lost';
    return row.anew ? 'anew' : 'held';
  }

  /** Whether any other node lives. */
  async others(node: string): Promise<boolean> {
    const [row] = await this.pool.rows<{ live: boolean }>(OTHERS_LIVE, [node]);
    return row?.live === true;
  }

  /** It is about to stop. Returns whether another node goes on. */
  async drains(node: string): Promise<boolean> {
    const [row] = await this.pool.rows<{ stay: boolean }>(NODE_DRAINS, [node, this.instance]);
    return row?.stay === true;
  }

  /** The last sign: the name is free at once. */
  async left(node: string): Promise<void> {
    await this.pool.rows(NODE_LEFT, [node, this.instance]);
  }
}

/** How often a name that is not free is asked for again, in ms. */
const AGAIN_MS = 500;

/**
 * The name of this node, which no other process has while this one lives: history names nodes, and what a process of
 * this name left open is taken to have ended when one starts. Taken before anything is done under it.
 */
@Injectable()
export class NodeName implements OnModuleInit {
  readonly #logger = new Logger(NodeName.name);
  readonly #name: string;
  #taken = false;
  #lost = false;
  #seeing: Promise<Held> | undefined;

  constructor(
    private readonly store: NodesStore,
    @Inject(CONFIG) config: Pick<Config, 'NODE_NAME'>,
    @Inject(STOP) private readonly stop: AbortSignal,
  ) {
    this.#name = config.NODE_NAME;
  }

  /**
   * One that was killed cannot say so: its name is free once it has been silent for long enough.
   * @throws StartError when the other one gives a sign of life; AbortError when the service is to stop
   */
  async onModuleInit(): Promise<void> {
    const rival = await this.store.started(this.#name);
    if (rival !== undefined) await this.#outlive(rival);
    this.#taken = true;
  }

  /** The database's clock may have been set back since the other one's last sign of life, so the silence is measured here. */
  async #outlive(seenAt: SeenAt): Promise<void> {
    this.#logger.warn(
      `another node ${this.#name} was alive a moment ago; its name is free once it has been silent for ${NODE_SILENCE_SECONDS} s, and is waited for`,
    );
    const since = performance.now();
    for (;;) {
      await sleep(AGAIN_MS, undefined, { signal: this.stop });
      const isSilent = performance.now() - since > NODE_SILENCE_SECONDS * 1_000;
      const rival = await this.store.started(this.#name, isSilent ? seenAt : undefined);
      if (rival === undefined) return;
      if (rival !== seenAt)
        throw new StartError(
          `Another process is alive under the name ${this.#name}: give every node a NODE_NAME of its own.`,
        );
    }
  }

  /** Whether what is stored under this name is of this process. */
  get taken(): boolean {
    return this.#taken;
  }

  /** A sign of life. Throws the database's error. `anew`: what was opened here before has to be opened again. */
  async seen(): Promise<Held> {
    if (!this.#taken) return 'lost';
    this.#seeing = this.store.seen(this.#name);
    const held = await this.#seeing;
    if (held === 'anew')
      this.#logger.warn(`the name ${this.#name} was lost and is taken again: the streams start anew`);
    if (held === 'lost' && !this.#lost)
      this.#logger.error(
        `another process took the name ${this.#name} while this one was silent: give every node a NODE_NAME of its own, and restart`,
      );
    this.#lost = held === 'lost';
    return held;
  }

  /** Whether any other node lives. Throws the database's error. */
  async others(): Promise<boolean> {
    return await this.store.others(this.#name);
  }

  /** Tells the others that this node is about to stop. Returns whether another one goes on. Throws the database's error. */
  async drains(): Promise<boolean> {
    return await this.store.drains(this.#name);
  }

  /** Leaves the name to whoever starts next. When it cannot be told, they wait. */
  async leave(): Promise<void> {
    if (!this.#taken) return;
    this.#taken = false;
    await this.#seeing?.catch(() => undefined);
    await this.store
      .left(this.#name)
      .catch((error: unknown) => this.#logger.warn(`the name of the node stays taken: ${messageOf(error)}`));
  }
}

@Module({ providers: [NodeName, NodesStore], exports: [NodeName] })
export class NodesModule {}
