/** No turn came in time. The statement was not sent; `isNeverSent` knows it. */
export class AcquireTimeout extends Error {
  override readonly name = 'NoTurn';
  readonly code = 'NO_TURN';

  constructor() {
    super('the statements of this tenant that wait already take too long');
  }
}

interface Waiting {
  readonly begin: () => void;
  readonly timer: NodeJS.Timeout;
}

/** Lets each key, such as a tenant, have so much under way at once; what is more waits in its order, and holds up no other key. */
export class KeyedSemaphore<Key> {
  readonly #keys = new Map<Key, { running: number; readonly waiting: Set<Waiting> }>();

  constructor(
    private readonly most: number,
    private readonly patienceMs: number,
  ) {}

  /** @throws NoTurn */
  async run<Result>(key: Key, work: () => Promise<Result>): Promise<Result> {
    await this.#begin(key);
    try {
      return await work();
    } finally {
      this.#end(key);
    }
  }

  async #begin(key: Key): Promise<void> {
    const own = this.#keys.get(key) ?? { running: 0, waiting: new Set() };
    this.#keys.set(key, own);
    if (own.running < this.most) {
      own.running += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        own.waiting.delete(waiting);
        reject(new AcquireTimeout());
      }, this.patienceMs);
      const waiting = { begin: resolve, timer };
      own.waiting.add(waiting);
    });
  }

  /** The turn goes to the next, or is free. */
  #end(key: Key): void {
    const own = this.#keys.get(key);
    if (own === undefined) return;
    const [next] = own.waiting;
    if (next !== undefined) {
      own.waiting.delete(next);
      clearTimeout(next.timer);
      next.begin();
      return;
    }
    own.running -= 1;
    if (own.running === 0) this.#keys.delete(key);
  }
}
