import { createHash } from 'node:crypto';

/** Numbers that a seed decides (mulberry32). Each part of a run draws from its own, so that none depends on the pace of another. */
export class Random {
  #state: number;

  constructor(seed: number, part: string) {
    this.#state = createHash('sha256').update(`${seed} ${part}`).digest().readInt32LE();
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** In [from, to). */
  between(from: number, to: number): number {
    return from + this.next() * (to - from);
  }

  /** In [0, below). */
  integer(below: number): number {
    return Math.floor(this.next() * below);
  }

  chance(of: number): boolean {
    return this.next() < of;
  }

  one<Item>(items: readonly Item[]): Item {
    const item = items[this.integer(items.length)];
    if (item === undefined) throw new Error('There is nothing to choose from.');
    return item;
  }

  shuffled<Item>(items: readonly Item[]): Item[] {
    const order = [...items];
    for (let last = order.length - 1; last > 0; last -= 1) {
      const other = this.integer(last + 1);
      const [a, b] = [order[last], order[other]];
      if (a === undefined || b === undefined) continue;
      order[last] = b;
      order[other] = a;
    }
    return order;
  }
}
