import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import { CONFIG, STOP, type Config } from '../core/config.ts';
import { messageOf, StartError } from '../core/errors.ts';
import { NODE_SILENCE_SECONDS, NodesStore, type Held, type SeenAt } from './nodes.store.ts';

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
