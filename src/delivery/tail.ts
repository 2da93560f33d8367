import type { Batch, Notification, Recipient } from '../core/notification.ts';
import type { Position } from '../core/position.ts';
import { notificationFrame } from './frames.ts';

/** Where a notification goes, as one string: a user, a topic or everyone. The prefix keeps a user and a topic of the same name apart. */
export type Address = string;

export const EVERYONE: Address = '*';
export const addressOfUser = (user: string): Address => `u${user}`;
export const addressOfTopic = (topic: string): Address => `t${topic}`;

/** The user that an address stands for, if it is one. */
export const userOf = (address: Address): string | undefined =>
  address.startsWith('u') ? address.slice(1) : undefined;

function addressOf(to: Recipient): Address {
  if ('user' in to) return addressOfUser(to.user);
  return 'topic' in to ? addressOfTopic(to.topic) : EVERYONE;
}

/** A notification on its way to sockets; its frame is encoded once, when the first socket wants it. */
export class Entry {
  readonly position: Position;
  readonly address: Address;
  readonly expiresAt: number | null;
  /** About what it holds in memory: `data` as text, as frame, and the fields around it. */
  readonly weight: number;
  #content: Notification | Buffer;

  constructor(notification: Notification) {
    this.position = notification.position;
    this.address = addressOf(notification.to);
    this.expiresAt = notification.expiresAt;
    this.weight = 2 * notification.size + 600;
    this.#content = notification;
  }

  get frame(): Buffer {
    if (!Buffer.isBuffer(this.#content)) this.#content = notificationFrame(this.#content);
    return this.#content;
  }
}

/**
 * The newest part of one tenant's log: everything in (base, head]. Grows by batches that follow one another; a batch
 * that does not follow is a hole, which only the log can fill.
 */
export class Tail {
  #base: Position;
  #head: Position;
  #entries: Entry[] = [];
  #byAddress = new Map<Address, Entry[]>();
  #weight = 0;

  constructor(head: Position) {
    this.#base = head;
    this.#head = head;
  }

  get head(): Position {
    return this.#head;
  }

  get weight(): number {
    return this.#weight;
  }

  /** The new entries; `known` when the tail already reaches as far; `hole` when something between is missing. */
  append(batch: Pick<Batch, 'previous' | 'head' | 'notifications'>): readonly Entry[] | 'known' | 'hole' {
    if (batch.head <= this.#head) return 'known';
    if (batch.previous !== this.#head) return 'hole';
    const entries = batch.notifications.map((notification) => new Entry(notification));
    for (const entry of entries) {
      this.#entries.push(entry);
      const list = this.#byAddress.get(entry.address);
      if (list === undefined) this.#byAddress.set(entry.address, [entry]);
      else list.push(entry);
      this.#weight += entry.weight;
    }
    this.#head = batch.head;
    return entries;
  }

  /** Forgets the window and goes on from `head`. */
  restart(head: Position): void {
    this.#base = head;
    this.#head = head;
    this.#entries = [];
    this.#byAddress.clear();
    this.#weight = 0;
  }

  /** What follows `position` at these addresses, in order; undefined when the window begins later than that. */
  after(position: Position, addresses: readonly Address[]): Entry[] | undefined {
    if (position < this.#base) return undefined;
    if (position >= this.#head) return [];
    const found: Entry[] = [];
    for (const address of addresses) {
      const list = this.#byAddress.get(address);
      if (list === undefined) continue;
      for (let i = firstAfter(list, position); i < list.length; i += 1) {
        const entry = list[i];
        if (entry !== undefined) found.push(entry);
      }
    }
    return addresses.length === 1 ? found : found.sort((a, b) => a.position - b.position);
  }

  /** The addresses of what is in the window. */
  get addresses(): Iterable<Address> {
    return this.#byAddress.keys();
  }

  /** Drops what is for an address, up to `position`. Everybody else's stays where it is. */
  forget(address: Address, position: Position): void {
    const list = this.#byAddress.get(address) ?? [];
    const gone = new Set(list.splice(0, firstAfter(list, position)));
    if (list.length === 0) this.#byAddress.delete(address);
    if (gone.size === 0) return;
    for (const { weight } of gone) this.#weight -= weight;
    this.#entries = this.#entries.filter((entry) => !gone.has(entry));
  }

  /** Drops the oldest entries until at most `weight` is left. Half of the window goes at once, so that this is rare. */
  trim(weight: number): void {
    if (this.#weight <= weight) return;
    let cut = 0;
    for (const entry of this.#entries) {
      if (this.#weight <= weight / 2) break;
      this.#weight -= entry.weight;
      this.#base = entry.position;
      cut += 1;
    }
    this.#entries.splice(0, cut);
    for (const [address, list] of this.#byAddress) {
      const kept = firstAfter(list, this.#base);
      if (kept === list.length) this.#byAddress.delete(address);
      else if (kept > 0) list.splice(0, kept);
    }
  }
}

/** The index of the first entry behind `position`. */
function firstAfter(list: readonly Entry[], position: Position): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const entry = list[middle];
    if (entry !== undefined && entry.position <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}
