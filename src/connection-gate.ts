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

/**
 * Lets new connections in a few at a time: fewer while the event loop is busy, more while it is idle.
 *
 * Node serves every socket that has something to be read before it does anything else. When 5,000 clients came back
 * at once that was one turn of 4 s, in which no other tenant's publish got on. Now a connection is new until its first
 * request is begun; few new ones are read at a time, few first requests are begun at once, and the others wait in the kernel, unread. Those who
 * are connected already hardly notice.
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
    gate.request(request.socket, () => serve(request, response)),
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

class ConnectionGate {
  /** Not listened to yet. */
  readonly #outside: Socket[] = [];
  /** Listened to, and since when; the oldest first. */
  readonly #new = new Map<Socket, number>();
  /** First requests that wait for their turn. */
  readonly #requests: { readonly socket: Socket; readonly begin: () => void }[] = [];
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
    this.#outside.push(socket);
    this.#fill();
  }

  request(socket: Socket, begin: () => void): void {
    // Waits, if at all, behind the first request of its own connection.
    if (!this.#new.has(socket)) {
      begin();
      return;
    }
    this.#requests.push({ socket, begin });
    if (this.#turning) return;
    this.#turning = true;
    this.#beginWindow(performance.now());
    setImmediate(() => this.#turn());
  }

  #fill(): void {
    while (this.#new.size < MOST_NEW) {
      const socket = this.#outside.shift();
      if (socket === undefined) return;
      this.#new.set(socket, performance.now());
      socket.once('close', () => this.#leave(socket));
      this.listen(socket);
      if (this.#sweeping) continue;
      this.#sweeping = true;
      setTimeout(() => this.#sweep(), SILENT_MS).unref();
    }
  }

  #leave(socket: Socket): void {
    if (this.#new.delete(socket)) this.#fill();
  }

  #turn(): void {
    this.#adapt();
    this.#left += this.#perTurn;
    const some = this.#requests.splice(0, this.#left);
    this.#left %= 1;
    for (const { socket, begin } of some) {
      begin();
      this.#leave(socket);
    }
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

  #sweep(): void {
    const long = performance.now() - SILENT_MS;
    for (const [socket, since] of this.#new) {
      if (since > long) break;
      this.#leave(socket);
    }
    this.#sweeping = this.#new.size > 0;
    if (this.#sweeping) setTimeout(() => this.#sweep(), SILENT_MS / 4).unref();
  }
}
