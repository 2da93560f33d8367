import type {
  Channel,
  Clock,
  Lifecycle,
  LifecycleEvent,
  Locks,
  Surroundings,
  TextStorage,
} from '../surroundings.ts';
import { realClock, settled } from './clock.ts';

/** What a fake browser is made of. */
export interface FakeBrowserOptions {
  /** Default: the real time. */
  readonly clock?: Clock;
  /** Where requests go: that of a fake service. */
  readonly fetch: typeof globalThis.fetch;
}

/** One profile of a browser: what its tabs share. */
export interface FakeBrowser {
  /** What all tabs have stored. It stays when the last tab is gone. */
  readonly storage: TextStorage & { readonly entries: ReadonlyMap<string, string> };
  /** Names of the locks that are held, and how many wait for each. */
  locks(): { name: string; waiting: number }[];
  /** Opens one. It is visible. */
  tab(): FakeTab;
  /** Cuts the network of all tabs: what is open breaks, what is asked fails. */
  goOffline(): void;
  goOnline(): void;
}

/** A tab. Spread `surroundings` into the options of a client. */
export interface FakeTab {
  readonly surroundings: Surroundings;
  /** In front, or behind others. */
  setVisible(isVisible: boolean): void;
  /** As if the browser had said it. */
  emit(event: LifecycleEvent): void;
  /** From now on nothing of it runs: no timer, message, lock or answer. Its connections stay open and what it holds stays held. */
  freeze(): void;
  /** It runs again: first it is told (`visible`, if it is that), then comes what has waited. */
  thaw(): void;
  /** It is gone without a word: its locks are free, its channel and its connections are closed, its timers never fire. */
  crash(): void;
  /** `hide`, and then it is gone. Requests with `keepalive` go through. */
  close(): Promise<void>;
}

/** A browser for tests of what goes on between tabs: storage, locks and channels as the standards have them. */
export function createFakeBrowser({ clock = realClock(), fetch }: FakeBrowserOptions): FakeBrowser {
  const entries = new Map<string, string>();
  const browser: Browser = {
    clock,
    fetch,
    entries,
    locks: new LockTable(),
    channels: new Map(),
    isOnline: true,
  };
  const tabs = new Set<Tab>();
  const setOnline = (isOnline: boolean): void => {
    if (browser.isOnline === isOnline) return;
    browser.isOnline = isOnline;
    for (const tab of tabs) tab.networkChanged();
  };
  return {
    storage: Object.assign(storageOn(entries), { entries }),
    locks: () => browser.locks.list(),
    tab() {
      const tab = new Tab(browser);
      tabs.add(tab);
      return tab;
    },
    goOffline: () => setOnline(false),
    goOnline: () => setOnline(true),
  };
}

interface Browser {
  readonly clock: Clock;
  readonly fetch: typeof globalThis.fetch;
  readonly entries: Map<string, string>;
  readonly locks: LockTable;
  readonly channels: Map<string, Set<FakeChannel>>;
  isOnline: boolean;
}

class Tab implements FakeTab {
  readonly surroundings: Surroundings;
  readonly #browser: Browser;
  readonly #listeners = new Set<(event: LifecycleEvent) => void>();
  readonly #timers = new Set<() => void>();
  readonly #channels = new Set<FakeChannel>();
  /** Breaks the connections that it has open; those with `keepalive` outlive it. */
  readonly #connections = new Set<{ readonly cut: (error: unknown) => void; readonly keepalive: boolean }>();
  #isVisible = true;
  /** What waits until it is thawed; undefined: it is not frozen. */
  #waiting: (() => void)[] | undefined;
  #isGone = false;

  constructor(browser: Browser) {
    this.#browser = browser;
    const lifecycle: Lifecycle = {
      isVisible: () => this.#isVisible,
      isOnline: () => browser.isOnline,
      listen: (listener) => {
        this.#listeners.add(listener);
        return () => void this.#listeners.delete(listener);
      },
    };
    const locks: Locks = {
      request: (name, options, whileHeld) =>
        this.#isGone ? never() : browser.locks.request(this, name, options, whileHeld),
    };
    this.surroundings = {
      fetch: (input, init) => this.#fetch(input, init),
      clock: { now: () => browser.clock.now(), after: (ms, call) => this.#after(ms, call) },
      lifecycle,
      storage: storageOn(browser.entries, () => !this.#isGone),
      locks,
      openChannel: (name) => this.#openChannel(name),
      random: Math.random,
    };
  }

  setVisible(isVisible: boolean): void {
    this.#isVisible = isVisible;
    if (isVisible) this.emit('visible');
  }

  emit(event: LifecycleEvent): void {
    this.run(() => {
      for (const listener of [...this.#listeners]) listener(event);
    });
  }

  freeze(): void {
    this.#waiting ??= [];
  }

  thaw(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    if (this.#isVisible) this.emit('visible');
    for (const task of waiting) this.run(task);
  }

  crash(): void {
    this.#isGone = true;
    this.#waiting = undefined;
    for (const cancel of this.#timers) cancel();
    for (const channel of this.#channels) channel.close();
    for (const { cut, keepalive } of this.#connections)
      if (!keepalive) cut(new DOMException('The tab is gone.', 'AbortError'));
    this.#browser.locks.drop(this);
  }

  async close(): Promise<void> {
    this.emit('hide');
    await settled();
    this.crash();
  }

  networkChanged(): void {
    const { isOnline } = this.#browser;
    if (!isOnline) for (const { cut } of this.#connections) cut(networkError());
    this.emit(isOnline ? 'online' : 'offline');
  }

  /** A task of its event loop: now, when it is thawed, or never. */
  run(task: () => void): void {
    if (this.#isGone) return;
    if (this.#waiting === undefined) task();
    else this.#waiting.push(task);
  }

  #after(ms: number, call: () => void): () => void {
    if (this.#isGone) return () => undefined;
    let isOff = false;
    const cancel = this.#browser.clock.after(ms, () => {
      this.#timers.delete(cancel);
      this.run(() => {
        if (!isOff) call();
      });
    });
    this.#timers.add(cancel);
    return () => {
      isOff = true;
      this.#timers.delete(cancel);
      cancel();
    };
  }

  #openChannel(name: string): Channel {
    const channel = new FakeChannel(this, this.#browser.channels, name);
    if (this.#isGone) channel.close();
    this.#channels.add(channel);
    return channel;
  }

  /** What comes back comes as a task of the tab, and a gone tab is told nothing. */
  async #fetch(input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> {
    if (this.#isGone) return await never();
    if (!this.#browser.isOnline) throw networkError();
    const broken = new AbortController();
    const asked = init.signal ?? (input instanceof Request ? input.signal : undefined);
    const signal = asked ? AbortSignal.any([asked, broken.signal]) : broken.signal;
    const keepalive = init.keepalive ?? (input instanceof Request && input.keepalive);
    const connection = { cut: (error: unknown) => broken.abort(error), keepalive };
    this.#connections.add(connection);
    const over = (): void => void this.#connections.delete(connection);
    try {
      const response = await this.#resumed(this.#browser.fetch(input, { ...init, signal }));
      if (response.body === null) {
        over();
        return response;
      }
      const { status, headers } = response;
      return new Response(this.#gated(response.body, over), { status, headers });
    } catch (error) {
      over();
      throw error;
    }
  }

  #gated(body: ReadableStream<Uint8Array>, over: () => void): ReadableStream<Uint8Array> {
    const reader = body.getReader();
    return new ReadableStream(
      {
        pull: async (controller) => {
          try {
            const { done, value } = await this.#resumed(reader.read());
            if (!done) return controller.enqueue(value);
            controller.close();
          } catch (error) {
            controller.error(error);
          }
          over();
        },
        cancel: async (reason) => {
          over();
          await reader.cancel(reason);
        },
      },
      { highWaterMark: 0 },
    );
  }

  /** Settles as `promise` does, as a task of the tab. */
  #resumed<Value>(promise: Promise<Value>): Promise<Value> {
    return new Promise((resolve, reject) => {
      promise.then(
        (value) => this.run(() => resolve(value)),
        (error: unknown) => this.run(() => reject(error)),
      );
    });
  }
}

/** BroadcastChannel: to all others of the name, not to itself, and not at once. */
class FakeChannel implements Channel {
  readonly #tab: Tab;
  readonly #peers: Set<FakeChannel>;
  readonly #listeners = new Set<(message: string) => void>();

  constructor(tab: Tab, channels: Map<string, Set<FakeChannel>>, name: string) {
    this.#tab = tab;
    this.#peers = channels.get(name) ?? new Set();
    channels.set(name, this.#peers);
    this.#peers.add(this);
  }

  /** Throws an InvalidStateError once it is closed. */
  postMessage(message: string): void {
    if (!this.#peers.has(this)) throw new DOMException('Channel is closed', 'InvalidStateError');
    for (const peer of this.#peers) {
      if (peer === this) continue;
      queueMicrotask(() => peer.#tab.run(() => peer.#receive(message)));
    }
  }

  listen(listener: (message: string) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  close(): void {
    this.#peers.delete(this);
  }

  #receive(message: string): void {
    if (this.#peers.has(this)) for (const listener of [...this.#listeners]) listener(message);
  }
}

interface LockRequest {
  readonly tab: Tab;
  readonly whileHeld: () => Promise<unknown>;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Web Locks, exclusive ones: W3C Web Locks API § 4. */
class LockTable {
  readonly #locks = new Map<string, { holder: LockRequest | undefined; readonly queue: LockRequest[] }>();

  list(): { name: string; waiting: number }[] {
    return [...this.#locks]
      .filter(([, { holder }]) => holder !== undefined)
      .map(([name, { queue }]) => ({ name, waiting: queue.length }));
  }

  request(
    tab: Tab,
    name: string,
    { steal = false, signal }: { steal?: boolean; signal?: AbortSignal },
    whileHeld: () => Promise<unknown>,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (steal && signal !== undefined)
        throw new DOMException('signal and steal cannot be used together', 'NotSupportedError');
      signal?.throwIfAborted();
      const lock = this.#locks.get(name) ?? { holder: undefined, queue: [] };
      this.#locks.set(name, lock);
      const request = { tab, whileHeld, resolve, reject };
      if (steal) {
        const robbed = lock.holder;
        robbed?.tab.run(() =>
          robbed.reject(
            new DOMException("Lock broken by another request with the 'steal' option.", 'AbortError'),
          ),
        );
        lock.holder = undefined;
        lock.queue.unshift(request);
      } else {
        lock.queue.push(request);
        signal?.addEventListener('abort', () => {
          const place = lock.queue.indexOf(request);
          if (place === -1) return;
          lock.queue.splice(place, 1);
          tab.run(() => reject(signal.reason));
        });
      }
      this.#grant(name);
    });
  }

  /** A tab is gone. */
  drop(tab: Tab): void {
    for (const [name, lock] of this.#locks) {
      for (const request of lock.queue.filter((one) => one.tab === tab))
        lock.queue.splice(lock.queue.indexOf(request), 1);
      if (lock.holder?.tab === tab) lock.holder = undefined;
      this.#grant(name);
    }
  }

  #grant(name: string): void {
    const lock = this.#locks.get(name);
    if (lock === undefined || lock.holder !== undefined) return;
    const next = lock.queue.shift();
    if (next === undefined) return;
    lock.holder = next;
    const release = (): void => {
      if (lock.holder !== next) return;
      lock.holder = undefined;
      this.#grant(name);
    };
    queueMicrotask(() =>
      next.tab.run(() => {
        // What was stolen before it was told is not begun.
        if (lock.holder !== next) return;
        void hold(next, release);
      }),
    );
  }
}

async function hold({ whileHeld, resolve, reject }: LockRequest, release: () => void): Promise<void> {
  try {
    const value = await whileHeld();
    release();
    resolve(value);
  } catch (error) {
    release();
    reject(error);
  }
}

const storageOn = (entries: Map<string, string>, isThere = (): boolean => true): TextStorage => ({
  getItem: (key) => entries.get(key) ?? null,
  setItem(key, value) {
    if (isThere()) entries.set(key, value);
  },
  removeItem(key) {
    if (isThere()) entries.delete(key);
  },
});

const networkError = (): TypeError => new TypeError('Failed to fetch');

const never = (): Promise<never> => new Promise(() => undefined);
