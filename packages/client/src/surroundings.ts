/*
 * What the kit needs of where it runs. A browser has all of it; elsewhere (React Native, a test) options say what there is. Nothing
 * is touched before `start`, so that a page can be rendered on a server.
 */

/** Where the page keeps text. `localStorage` is one. */
export type TextStorage = Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;

export interface Clock {
  /** ms since 1970. It may jump: a laptop sleeps. */
  now(): number;
  /** Calls once, `ms` from now. Returns how to call it off. */
  after(ms: number, call: () => void): () => void;
}

/** What happens to the page. */
export type LifecycleEvent =
  /** It may have slept: it is shown, thawed, or back from the cache of pages. */
  | 'visible'
  | 'hidden'
  /** The network is back. */
  | 'online'
  | 'offline'
  /** It goes, perhaps into the cache of pages. */
  | 'hide';

export interface Lifecycle {
  isVisible(): boolean;
  isOnline(): boolean;
  /** Returns how to end it. */
  listen(listener: (event: LifecycleEvent) => void): () => void;
}

/** Carries messages between the tabs of one browser. `BroadcastChannel` is one. */
export interface Channel {
  postMessage(message: string): void;
  /** Returns how to end it. */
  listen(listener: (message: string) => void): () => void;
  close(): void;
}

/** Web Locks, as far as they are used. */
export interface Locks {
  request(
    name: string,
    options: { steal?: boolean; signal?: AbortSignal },
    whileHeld: () => Promise<unknown>,
  ): Promise<unknown>;
}

export interface Surroundings {
  readonly fetch: typeof globalThis.fetch;
  readonly clock: Clock;
  readonly lifecycle: Lifecycle;
  /** Shared by all tabs, and there after a restart. Undefined: nothing is kept. */
  readonly storage: TextStorage | undefined;
  /** Undefined: tabs share nothing. */
  readonly locks: Locks | undefined;
  readonly openChannel: ((name: string) => Channel) | undefined;
  /** 0 to 1. */
  readonly random: () => number;
}

export const clock: Clock = {
  now: () => Date.now(),
  after(ms, call) {
    const timer = setTimeout(call, ms);
    return () => clearTimeout(timer);
  },
};

/** Events of the browser by what they mean here. `resume` is that of a frozen page (Page Lifecycle). */
const EVENTS: readonly (readonly [target: 'window' | 'document', name: string, event: LifecycleEvent])[] = [
  ['document', 'visibilitychange', 'visible'],
  ['document', 'resume', 'visible'],
  ['window', 'pageshow', 'visible'],
  ['window', 'online', 'online'],
  ['window', 'offline', 'offline'],
  ['window', 'pagehide', 'hide'],
];

const lifecycle: Lifecycle = {
  isVisible: () => globalThis.document?.visibilityState !== 'hidden',
  isOnline: () => globalThis.navigator?.onLine ?? true,
  listen(listener) {
    const over = new AbortController();
    for (const [target, name, event] of EVENTS)
      (globalThis[target] as EventTarget | undefined)?.addEventListener?.(
        name,
        () => listener(event === 'visible' && !lifecycle.isVisible() ? 'hidden' : event),
        { signal: over.signal },
      );
    return () => over.abort();
  },
};

function openChannel(name: string): Channel {
  const channel = new BroadcastChannel(name);
  return {
    postMessage: (message) => channel.postMessage(message),
    listen(listener) {
      const listen = ({ data }: MessageEvent<string>): void => listener(data);
      channel.addEventListener('message', listen);
      return () => channel.removeEventListener('message', listen);
    },
    close: () => channel.close(),
  };
}

/** A page that may not store anything throws where it is asked for the storage. */
function storageOf(name: 'localStorage' | 'sessionStorage'): TextStorage | undefined {
  try {
    return globalThis[name];
  } catch {
    return undefined;
  }
}

/** Those of the browser. `isShared`: what is stored is for all tabs, else for this one. */
export function surroundings(options: Partial<Surroundings>, isShared: boolean): Surroundings {
  return {
    fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
    clock: options.clock ?? clock,
    lifecycle: options.lifecycle ?? lifecycle,
    // Not before it is used: a server has none, and some warn of that.
    get storage() {
      return 'storage' in options ? options.storage : storageOf(isShared ? 'localStorage' : 'sessionStorage');
    },
    locks: 'locks' in options ? options.locks : globalThis.navigator?.locks,
    openChannel:
      'openChannel' in options
        ? options.openChannel
        : typeof BroadcastChannel === 'undefined'
          ? undefined
          : openChannel,
    random: options.random ?? Math.random,
  };
}
