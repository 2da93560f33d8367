import type { Limits } from '../core/limits.ts';

/** What the database says that a tenant has used. */
export interface Usage {
  /** Notifications that are not paid off yet: each costs one, and time pays the tenant's rate. */
  readonly spent: number;
  /** Bytes of `data` that are kept. */
  readonly storedBytes: number;
}

/** A tenant's rate: what it may publish in the long run, and at once. */
export type Rate = Pick<Limits, 'notificationsPerSecond' | 'burst'>;

/**
 * What this node knows of a tenant's account: what the database said last, and what was admitted here since and is not
 * appended yet. Other nodes charge the same account, so that a node may know too little of what was spent; it hears
 * with its next append, and what was too much is paid off before anything more is admitted. See docs/adr/0006.
 *
 * Times are of a clock of this process that never goes back, in ms.
 */
export class Quota {
  #balance: Usage;
  #at: number;
  #held = 0;
  #heldBytes = 0;
  #learned = 0;

  /** `at`: when the balance was so, or later. */
  constructor(balance: Usage, at: number) {
    this.#balance = balance;
    this.#at = at;
  }

  /** How often the database was heard: a question that was asked before another answer came is answered too late. */
  get learned(): number {
    return this.#learned;
  }

  /** An answer of the database takes the place of what was known. */
  learn(balance: Usage, at: number): void {
    this.#balance = balance;
    this.#at = at;
    this.#learned += 1;
  }

  /** How many notifications can be admitted; below zero: how many have to be paid off first. */
  left({ notificationsPerSecond, burst }: Rate, now: number): number {
    const paid = (notificationsPerSecond * Math.max(0, now - this.#at)) / 1000;
    return burst - Math.max(0, this.#balance.spent - paid) - this.#held;
  }

  /** ms until `n` notifications can be admitted, if no others are; 0: now. */
  waitFor(n: number, rate: Rate, now: number): number {
    return (Math.max(0, n - this.left(rate, now)) / rate.notificationsPerSecond) * 1000;
  }

  /** Whether so many bytes more can be kept. */
  hasRoom(bytes: number, { storedBytes }: Pick<Limits, 'storedBytes'>): boolean {
    return this.#balance.storedBytes + this.#heldBytes + bytes <= storedBytes;
  }

  /** Admits notifications: they count until they are released, which happens once, however often it is asked for. */
  reserve(n: number, bytes: number): () => void {
    this.#held += n;
    this.#heldBytes += bytes;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#held -= n;
      this.#heldBytes -= bytes;
    };
  }
}
