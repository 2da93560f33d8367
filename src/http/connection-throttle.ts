import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { performance } from 'node:perf_hooks';

/** How often first requests are begun, in ms. */
const TURN_MS = 2;
/** How often it is decided how many, in ms: over less than that the event loop is either busy or not. */
const WINDOW_MS = 20;
/** Part of its time that the event loop may be at work meanwhile; the rest is for those who are connected already. */
export const BUSY = 0.6;
/** First requests that are begun in a turn: at first, and at most. */
const PER_TURN = { first: 4, most: 32 };
/**
 * So many are begun in a ms even so, as long as turns come within CATCH_UP_MS. Counted by time, since turns are rare when the
 * event loop is busy: strangers who asked 500 times a second for streams that they do not get made others wait for 11 s.
 */
const LEAST_PER_MS = 0.25;
const CATCH_UP_MS = 100;

/** Whether a request is for a stream, which clients that were cut open again all at once: as far as its first line tells. */
export const wantsStream = ({ method, url = '' }: IncomingMessage): boolean =>
  method === 'GET' && url.startsWith('/v1/stream') && (url.length === 10 || url[10] === '?');

/** A first request that waits for its turn. */
interface FirstRequest {
  readonly socket: Socket;
  readonly begin: () => void;
}

/** First requests by the address that they come from: each address has its turn, however many wait of another. */
class Addresses {
  readonly #waiting = new Map<string, FirstRequest[]>();

  push(first: FirstRequest): void {
    // A socket that is closed has none; it is passed over.
    const address = first.socket.remoteAddress ?? '';
    const own = this.#waiting.get(address);
    if (own === undefined) this.#waiting.set(address, [first]);
    else own.push(first);
  }

  shift(): FirstRequest | undefined {
    for (const [address, own] of this.#waiting) {
      const first = own.shift();
      this.#waiting.delete(address);
      // Behind all others.
      if (own.length > 0) this.#waiting.set(address, own);
      return first;
    }
    return undefined;
  }
}

/**
 * Begins the first requests of new connections a few at a time: fewer while the event loop is busy, more while it is idle.
 *
 * When 5,000 clients came back at once, Node began what all of them asked in one turn of 4 s, in which no other tenant's
 * publish got on. To begin a request is nearly all of what it costs: those who are connected already hardly notice the rest.
 *
 * Only whole requests wait here, one of a connection, so that a connection that says nothing or half a request is in nobody's
 * way. Those that want something else than a stream need not wait for those who want one: a service that opened another
 * connection in the storm waited for 3 s. Among both, remote addresses take turns.
 */
export class ConnectionThrottle {
  /** Connections of which a request was begun, or waits, that was none for a stream. */
  readonly #known = new WeakSet<Socket>();
  readonly #streams = new Addresses();
  readonly #others = new Addresses();
  #othersNext = true;
  #perTurn: number = PER_TURN.first;
  /** What is left of a turn that had less than one. */
  #left = 0;
  /** Of the event loop when the window began. */
  #last = performance.eventLoopUtilization();
  #windowBegan = performance.now();
  #turned = performance.now();
  #turning = false;

  /** What comes behind the first request of its connection does not wait. */
  admit(request: IncomingMessage, begin: () => void): void {
    const { socket } = request;
    if (this.#known.has(socket)) {
      begin();
      return;
    }
    const isStream = wantsStream(request);
    // A stream is the last of its connection, and what is kept of it is kept for as long as it is open.
    if (!isStream) this.#known.add(socket);
    (isStream ? this.#streams : this.#others).push({ socket, begin });
    if (this.#turning) return;
    this.#turning = true;
    this.#turned = performance.now();
    this.#beginWindow(this.#turned);
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    const now = performance.now();
    this.#adapt(now);
    this.#left += Math.max(this.#perTurn, LEAST_PER_MS * Math.min(now - this.#turned, CATCH_UP_MS));
    this.#turned = now;
    let first: FirstRequest | undefined;
    while (this.#left >= 1 && (first = this.#next()) !== undefined) {
      // Whoever has gone costs nothing.
      if (first.socket.destroyed) continue;
      first.begin();
      this.#left -= 1;
    }
    this.#turning = this.#left < 1;
    this.#left %= 1;
    if (this.#turning) setTimeout(() => this.#turn(), TURN_MS);
  }

  /** Streams and the others by turns: of thousands only one is in front of whoever wants something else. */
  #next(): FirstRequest | undefined {
    const othersFirst = this.#othersNext;
    this.#othersNext = !othersFirst;
    if (othersFirst) return this.#others.shift() ?? this.#streams.shift();
    return this.#streams.shift() ?? this.#others.shift();
  }

  #adapt(now: number): void {
    if (now - this.#windowBegan < WINDOW_MS) return;
    const { utilization } = performance.eventLoopUtilization(this.#last);
    const change = Math.min(1.25, Math.max(0.5, BUSY / utilization));
    this.#perTurn = Math.min(PER_TURN.most, Math.max(LEAST_PER_MS * TURN_MS, this.#perTurn * change));
    this.#beginWindow(now);
  }

  #beginWindow(now: number): void {
    this.#last = performance.eventLoopUtilization();
    this.#windowBegan = now;
  }
}
