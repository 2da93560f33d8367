import { Injectable } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { ChangeFeed, type ChangeSource } from '../cluster/change-feed.ts';
import { StreamCommandsStore, type StoredStreamCommand } from './stream-commands.store.ts';

/** What open streams are told by whichever node was asked: to close, or to go on with a new token. */
@Injectable()
export class StreamCommands implements ChangeSource {
  readonly #received = new Subject<StoredStreamCommand>();
  /** Ids of the last look: what is read twice was in it. */
  #known = new Set<string>();

  constructor(
    changes: ChangeFeed,
    private readonly store: StreamCommandsStore,
  ) {
    changes.register(this);
  }

  /** Each order once, in the sequence in which they were given. */
  get received(): Observable<StoredStreamCommand> {
    return this.#received;
  }

  /** A node without streams has nothing to be told. */
  load(): Promise<void> {
    return Promise.resolve();
  }

  async catchUp(since: string): Promise<void> {
    const orders = await this.store.since(since);
    const known = this.#known;
    this.#known = new Set(orders.map(({ id }) => id));
    for (const order of orders) if (!known.has(order.id)) this.#received.next(order);
  }
}
