/** Work that is under way, by key. */
export class InFlight<Key> {
  readonly #work = new Map<Key, Set<Promise<unknown>>>();

  async track<Result>(key: Key, work: Promise<Result>): Promise<Result> {
    const all = this.#work.get(key) ?? new Set();
    this.#work.set(key, all.add(work));
    try {
      return await work;
    } finally {
      all.delete(work);
      if (all.size === 0) this.#work.delete(key);
    }
  }

  /** Resolves when what is under way now has ended, in whatever way. */
  async settled(key: Key): Promise<void> {
    await Promise.allSettled([...(this.#work.get(key) ?? [])]);
  }
}
