import type { TextStorage } from './surroundings.ts';

/** Where the stream of this login is. */
export interface Place {
  readonly user: string;
  readonly tenant: string;
  /** Of the tab that wrote it. */
  readonly term: number;
  /** All up to here was handled. */
  readonly position: string;
}

/**
 * What is kept beyond a page. Named by a hash, so that no address and no login stands in the storage in the clear; a service that
 * answers for another user or tenant than before is noticed by `Place`.
 */
export class Memory {
  constructor(
    private readonly storage: () => TextStorage | undefined,
    readonly name: string,
    private readonly random: () => number,
  ) {}

  get place(): Place | undefined {
    const text = this.#read('place');
    try {
      const place: Place | null = JSON.parse(text ?? 'null');
      return place ?? undefined;
    } catch {
      return undefined;
    }
  }

  set place(place: Place | undefined) {
    this.#write('place', place === undefined ? null : JSON.stringify(place));
  }

  get queue(): string | null {
    return this.#read('queue');
  }

  set queue(text: string | null) {
    this.#write('queue', text);
  }

  /** One per profile of the browser and login. It stays when somebody signs out: devices of a user are limited. */
  device(): string {
    const known = this.#read('device');
    if (known !== null) return known;
    const device = `web-${Array.from({ length: 4 }, () => Math.floor(this.random() * 36 ** 4).toString(36)).join('')}`;
    this.#write('device', device);
    return device;
  }

  #read(what: string): string | null {
    try {
      return this.storage()?.getItem(`${this.name}:${what}`) ?? null;
    } catch {
      return null;
    }
  }

  /** A storage that is full or forbidden costs what it would have kept, and nothing else. */
  #write(what: string, text: string | null): void {
    try {
      if (text === null) this.storage()?.removeItem(`${this.name}:${what}`);
      else this.storage()?.setItem(`${this.name}:${what}`, text);
    } catch {
      // As above.
    }
  }
}

/** 53 bits of it, as text: enough for the few logins of one browser. FNV-1a in two halves; it hides nothing from an attacker. */
export function hashOf(text: string): string {
  let [a, b] = [0x811c9dc5, 0x01000193];
  for (let n = 0; n < text.length; n += 1) {
    a = Math.imul(a ^ text.charCodeAt(n), 0x01000193);
    b = Math.imul(b ^ text.charCodeAt(n), 0x85ebca6b) ^ (b >>> 13);
  }
  return ((a >>> 0) * 2 ** 21 + ((b >>> 0) & 0x1fffff)).toString(36);
}
