import { Injectable } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { ChangeFeed, type ChangeSource } from '../cluster/change-feed.ts';
import { Metrics } from '../telemetry/metrics.ts';
import type { Erasure } from './erasure.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';

/** The erasures that this node has heard of, whichever node was asked for them. */
@Injectable()
export class ErasureRegistry implements ChangeSource {
  readonly #heard = new Subject<Erasure>();
  readonly #running = new Map<string, Erasure>();

  constructor(
    changes: ChangeFeed,
    private readonly store: ErasureRegistryStore,
    private readonly metrics: Metrics,
  ) {
    changes.register(this);
  }

  /** Each when it begins, when it is settled what goes, when that is gone, and when it is done; each of it once or more. */
  get heard(): Observable<Erasure> {
    return this.#heard;
  }

  /** Oldest first. */
  get running(): Iterable<Erasure> {
    return this.#running.values();
  }

  async load(): Promise<void> {
    const erasures = await this.store.load();
    this.#running.clear();
    for (const erasure of erasures) this.#apply(erasure);
  }

  async catchUp(since: string): Promise<void> {
    for (const erasure of await this.store.since(since)) this.#apply(erasure);
  }

  /** Its row is gone, with the tenant. */
  drop({ id }: Erasure): void {
    this.#running.delete(id);
    this.metrics.erasures.set(this.#running.size);
  }

  #apply(erasure: Erasure): void {
    if (erasure.done) this.#running.delete(erasure.id);
    else this.#running.set(erasure.id, erasure);
    this.metrics.erasures.set(this.#running.size);
    this.#heard.next(erasure);
  }
}
