import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { asPosition } from '../core/position.ts';
import { NodePurge } from '../delivery/node-purge.ts';
import { whoOf, type Erasure } from './erasure.ts';
import { ErasureRegistry } from './erasure-registry.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';

/** What could not be said of an erasure is said again so soon, in ms. */
const AGAIN_MS = 1_000;

const EVERYTHING = asPosition(Number.MAX_SAFE_INTEGER);

const stageOf = ({ id, emptied }: Erasure): string => `${id} ${emptied}`;

/**
 * Takes out of this node's memory what is erased, and says so in the row: before anything is deleted, so that nothing is
 * written behind that, and once more when all is, for what was published meanwhile.
 */
@Injectable()
export class ErasureListener implements OnModuleInit, OnModuleDestroy {
  readonly #logger = new Logger(ErasureListener.name);
  /** Running erasures, before and after their rows were gone: what this node does about them, or has done. */
  readonly #heard = new Map<string, Promise<void>>();
  #subscription: Subscription | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly erasures: ErasureRegistry,
    private readonly store: ErasureRegistryStore,
    private readonly forgetting: NodePurge,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onModuleInit(): void {
    this.#subscription = this.erasures.heard.subscribe((erasure) => {
      if (erasure.done) void this.#forgetAgain(erasure);
      else this.#hear(erasure);
    });
    this.#timer = setInterval(() => {
      const running = new Map([...this.erasures.running].map((erasure) => [stageOf(erasure), erasure]));
      for (const erasure of running.values()) this.#hear(erasure);
      for (const stage of this.#heard.keys()) if (!running.has(stage)) this.#heard.delete(stage);
    }, AGAIN_MS);
  }

  onModuleDestroy(): void {
    clearInterval(this.#timer);
    this.#subscription?.unsubscribe();
  }

  #hear(erasure: Erasure): void {
    const stage = stageOf(erasure);
    if (this.#heard.has(stage)) return;
    const heard = this.#forget(erasure).catch((error: unknown) => {
      this.#heard.delete(stage);
      this.#logger.warn(`an erasure waits for this node: ${messageOf(error)}`);
    });
    this.#heard.set(stage, heard);
  }

  /** Until it is done nobody of them comes in, so nothing is spared. */
  async #forget(erasure: Erasure): Promise<void> {
    const { tenantId, position } = erasure;
    const who = whoOf(erasure);
    await this.forgetting.purge({ tenantId, who, openedUntil: Infinity, upTo: position ?? EVERYTHING });
    await this.store.heard(erasure, this.config.NODE_NAME);
  }

  /** A node that was cut off hears of it only now. Whoever has come since, and what was published since, stays. */
  async #forgetAgain(erasure: Erasure): Promise<void> {
    const { tenantId, erasedAt, position } = erasure;
    if (erasedAt === null || position === null) return;
    await this.forgetting.purge({ tenantId, who: whoOf(erasure), openedUntil: erasedAt, upTo: position });
  }
}
