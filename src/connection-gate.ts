import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** How often first requests are begun, in ms. */
const TURN_MS = 2;
/** How often it is decided how many, in ms: over less than that the event loop is either busy or not. */
const WINDOW_MS = 20;
/** Part of its time that the event loop may be at work meanwhile; the rest is for those who are connected already. */
const BUSY = 0.6;
/** First requests that are begun in a turn: at first, and the bounds of what comes of it. */
const PER_TURN = { first: 4, least: 0.5, most: 32 };
/** New connections that are listened to at the same time. */
const MOST_NEW = 128;
/** A connection that says nothing for this long, in ms, is not waited for any more: browsers open some in advance. */
const SILENT_MS = 1_000;

/** How a request begins that a crowd may come with: a stream, which clients that were cut open again all at once. */
const STREAM = /^GET \/v1\/stream[ ?]/;

/**
 * Lets new connections in a few at a time: fewer while the event loop is busy, more while it is idle.
 *
 * Node serves every socket that has something to be read before it does anything else. When 5,000 clients came back
 * at once that was one turn of 4 s, in which no other tenant's publish got on. Now a connection is new until its first
 * request is begun: few new ones are parsed at a time, and few first requests are begun at once. Of the others only the first
 * bytes are looked at, so that whoever wants something else than a stream need not wait for those who want one: a service
 * that opened another connection in the storm waited for 3 s. Those who are connected already hardly notice.
 */
export function admitGradually(server: Server): void {
  const accept = take(server, 'connection');
  const serve = take(server, 'request');
  // Of accepted sockets; not in its types. Without it a socket begins to read before it is let in.
  Reflect.set(server, 'pauseOnConnect', true);
  const gate = new ConnectionGate((socket) => {
    accept(socket);
    socket.resume();
  });
  server.on('connection', (socket) => gate.arrive(socket));
  server.on('request', (request: IncomingMessage, response: ServerResponse) =>
    gate.request(request, () => serve(request, response)),
  );
}

/** Takes the listeners of an event away and answers what calls them. */
function take(server: Server, event: string): (...parameters: unknown[]) => void {
  const listeners = server.listeners(event);
  server.removeAllListeners(event);
  return (...parameters) => {
    for (const listener of listeners) Reflect.apply(listener, server, parameters);
  };
}

/** Those who want a stream, and the others, by turns: of thousands only one is in front of whoever wants something else. */
class Queues<Item> {
  readonly #streams: Item[] = [];
  readonly #others: Item[] = [];
  #othersNext = true;

  get length(): number {
    return this.#streams.length + this.#others.length;
  }

  push(item: Item, wants: { readonly stream: boolean }): void {
    (wants.stream ? this.#streams : this.#others).push(item);
  }

  shift(): Item | undefined {
    const othersFirst = this.#othersNext;
    this.#othersNext = !othersFirst;
    if (othersFirst) return this.#others.shift() ?? this.#streams.shift();
    return this.#streams.shift() ?? this.#others.shift();
  }
}

class ConnectionGate {
  /** Have not said anything yet, and since when; the oldest first. */
  readonly #silent = new Map<Socket, number>();
  /** Have said something that nobody has listened to. */
  readonly #outside = new Queues<Socket>();
  /** Listened to, and since when; the oldest first. */
  readonly #new = new Map<Socket, number>();
  /** First requests that wait for their turn. */
  readonly #requests = new Queues<{ readonly socket: Socket; readonly begin: () => void }>();
  #perTurn: number = PER_TURN.first;
  /** What is left of a turn that had less than one. */
  #left = 0;
  /** Of the event loop when the window began. */
  #last = performance.eventLoopUtilization();
  #windowBegan = performance.now();
  #turning = false;
  #sweeping = false;

  constructor(private readonly listen: (socket: Socket) => void) {}

  arrive(socket: Socket): void {
    this.#silent.set(socket, performance.now());
    socket
      .once('readable', () => this.#hear(socket))
      .once('close', () => this.#silent.delete(socket))
      // `close` follows.
      .on('error', ignore);
    this.#sweepLater();
  }

  request({ socket, method, url }: IncomingMessage, begin: () => void): void {
    // Waits, if at all, behind the first request of its own connection.
    if (!this.#new.has(socket)) {
      begin();
      return;
    }
    this.#requests.push({ socket, begin }, { stream: STREAM.test(`${method} ${url} `) });
    if (this.#turning) return;
    this.#turning = true;
    this.#beginWindow(performance.now());
    setImmediate(() => this.#turn());
  }

  /** The first bytes have come. They are put back, for HTTP to read. */
  #hear(socket: Socket): void {
    this.#silent.delete(socket);
    const said: unknown = socket.read();
    if (!(said instanceof Buffer)) {
      // It has gone without a word.
      socket.destroy();
      return;
    }
    socket.unshift(said);
    this.#outside.push(socket, { stream: STREAM.test(said.toString('latin1', 0, 20)) });
    this.#fill();
  }

  #fill(): void {
    while (this.#new.size < MOST_NEW) {
      const socket = this.#outside.shift();
      if (socket === undefined) return;
      if (socket.destroyed) continue;
      this.#new.set(socket, performance.now());
      socket.once('close', () => this.#leave(socket));
      this.#letIn(socket);
      this.#sweepLater();
    }
  }

  #letIn(socket: Socket): void {
    socket.removeAllListeners('readable').off('error', ignore);
    this.listen(socket);
  }

  #leave(socket: Socket): void {
    if (this.#new.delete(socket)) this.#fill();
  }

  #turn(): void {
    this.#adapt();
    this.#left += this.#perTurn;
    for (; this.#left >= 1; this.#left -= 1) {
      const first = this.#requests.shift();
      if (first === undefined) break;
      first.begin();
      this.#leave(first.socket);
    }
    this.#left %= 1;
    this.#turning = this.#requests.length > 0;
    if (this.#turning) setTimeout(() => this.#turn(), TURN_MS);
  }

  #adapt(): void {
    const now = performance.now();
    if (now - this.#windowBegan < WINDOW_MS) return;
    const { utilization } = performance.eventLoopUtilization(this.#last);
    const change = Math.min(1.25, Math.max(0.5, BUSY / utilization));
    this.#perTurn = Math.min(PER_TURN.most, Math.max(PER_TURN.least, this.#perTurn * change));
    this.#beginWindow(now);
  }

  #beginWindow(now: number): void {
    this.#last = performance.eventLoopUtilization();
    this.#windowBegan = now;
  }

  #sweepLater(): void {
    if (this.#sweeping) return;
    this.#sweeping = true;
    setTimeout(() => this.#sweep(), SILENT_MS / 4).unref();
  }

  #sweep(): void {
    const long = performance.now() - SILENT_MS;
    for (const socket of since(this.#silent, long)) {
      this.#silent.delete(socket);
      this.#letIn(socket);
    }
    for (const socket of since(this.#new, long)) this.#leave(socket);
    this.#sweeping = false;
    if (this.#silent.size + this.#new.size > 0) this.#sweepLater();
  }
}

const ignore = (): void => undefined;

/** Those that have been there since `long` or longer. */
function* since(waiting: ReadonlyMap<Socket, number>, long: number): Generator<Socket> {
  for (const [socket, came] of waiting) {
    if (came > long) return;
    yield socket;
  }
}
