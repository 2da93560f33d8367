import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { throughPort, type DatabasePlace } from './database.ts';
import { boundStatement, Messages, READY, SYNC, typeOf } from './postgres-messages.ts';

/**
 * How a connection to the database is lost around a statement:
 *
 * - `answer`: the server runs it to the end, its commit included; what it answers is lost.
 * - `statement`: it never gets to the server.
 * - `late`: the sender loses the connection, and only after that the statement gets to the server.
 */
export type Loss = 'answer' | 'statement' | 'late';

interface Trap {
  readonly statement: string;
  readonly loss: Loss;
  readonly away: boolean;
  readonly sprung: () => void;
}

interface Link {
  readonly client: Socket;
  readonly server: Socket;
  trap?: Trap;
  /** What did not get to the server. */
  readonly held: Buffer[];
  /** A statement is under way on it. */
  busy: boolean;
  /** Nobody has noticed yet that it is dead. */
  dead: boolean;
}

/** A TCP proxy in front of PostgreSQL, which knows enough of its protocol to lose connections at a chosen moment. */
export class BreakingProxy implements DatabasePlace {
  /** While it is set, connections are lost as soon as they are made, and those that lie idle when they are used. */
  away = false;
  readonly #links = new Set<Link>();
  #trap: Trap | undefined;
  #late: Link | undefined;
  #stalled = false;

  private constructor(
    /** The database as it is reached through the proxy. */
    readonly url: string,
    readonly urls: DatabasePlace['urls'],
    private readonly listener: Server,
  ) {}

  static async start(place: DatabasePlace): Promise<BreakingProxy> {
    const { hostname, port } = new URL(place.url);
    const listener = createServer();
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    const reached = throughPort(place, (listener.address() as AddressInfo).port);
    const proxy = new BreakingProxy(reached.url, reached.urls, listener);
    listener.on('connection', (client) => proxy.#pass(client, Number(port), hostname));
    return proxy;
  }

  /**
   * Loses the connection once, around the next run of this named statement, and with `away` every one after it.
   * Resolves when the sender's side has been cut.
   */
  lose(loss: Loss, statement: string, { away = false } = {}): Promise<void> {
    return new Promise((resolve) => {
      this.#trap = { statement, loss, away, sprung: resolve };
    });
  }

  /** Lets the statement that was lost as `late` get to the server, and waits until it has run there. */
  async arriveLate(): Promise<void> {
    if (this.#late === undefined) throw new Error('No statement is on its way.');
    const { server, held } = this.#late;
    this.#late = undefined;
    const ran = once(server, 'close');
    for (const message of held) server.write(message);
    await ran;
  }

  /** Cuts all that is open. */
  cut(): void {
    for (const { client, server } of this.#links) {
      client.resetAndDestroy();
      server.destroy();
    }
  }

  /** Cuts what is busy; what lies idle dies with it, and shows it when it is used, as behind a firewall that forgot it. */
  cutBusy(): void {
    for (const link of this.#links) {
      if (!link.busy) link.dead = true;
      else {
        link.client.resetAndDestroy();
        link.server.destroy();
      }
    }
  }

  /** From now on the network swallows every byte, without a word to either side. */
  stall(): void {
    this.#stalled = true;
    for (const { client, server } of this.#links) {
      client.pause();
      server.pause();
    }
  }

  /** The network is back, and what it had swallowed arrives. */
  flow(): void {
    this.#stalled = false;
    for (const { client, server } of this.#links) {
      client.resume();
      server.resume();
    }
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.listener.close(resolve));
    this.away = true;
    this.cut();
    await closed;
  }

  #pass(client: Socket, port: number, host: string): void {
    // Lost connections are what this is for.
    client.on('error', () => undefined);
    if (this.away) {
      client.resetAndDestroy();
      return;
    }
    const server = connect(port, host);
    server.on('error', () => undefined);
    // Small messages one after the other: each would wait for the other side's acknowledgement of the one before.
    for (const side of [client, server]) side.setNoDelay(true);
    const link: Link = { client, server, held: [], busy: false, dead: false };
    this.#links.add(link);
    if (this.#stalled) this.stall();
    const fromClient = new Messages(true);
    const fromServer = new Messages(false);
    client.on('data', (bytes) => fromClient.split(bytes).forEach((message) => this.#ask(link, message)));
    server.on('data', (bytes) => fromServer.split(bytes).forEach((message) => this.#answer(link, message)));
    client.on('close', () => {
      // A statement that is on its way goes on without its sender.
      if (link.trap === undefined) server.end();
    });
    server.on('close', () => {
      this.#links.delete(link);
      client.destroy();
    });
  }

  #ask(link: Link, message: Buffer): void {
    const { client, server, held } = link;
    if (link.dead || (this.away && !link.busy)) {
      client.resetAndDestroy();
      return;
    }
    link.busy = true;
    if (boundStatement(message) === this.#trap?.statement) this.#spring(link);
    if (link.trap === undefined || link.trap.loss === 'answer') {
      server.write(message);
      return;
    }
    held.push(message);
    if (typeOf(message) !== SYNC) return;
    if (link.trap.loss === 'late') this.#late = link;
    else server.destroy();
    client.resetAndDestroy();
    link.trap.sprung();
  }

  #spring(link: Link): void {
    if (this.#trap === undefined) return;
    link.trap = this.#trap;
    this.#trap = undefined;
    if (link.trap.away) this.away = true;
  }

  #answer(link: Link, message: Buffer): void {
    const { client, server, trap } = link;
    if (typeOf(message) === READY) link.busy = false;
    if (trap === undefined) {
      client.write(message);
    } else if (typeOf(message) === READY) {
      // Only now has the server committed: it says that a command is complete before it commits.
      server.destroy();
      client.resetAndDestroy();
      trap.sprung();
    }
  }
}
