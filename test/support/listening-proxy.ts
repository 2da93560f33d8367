import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { throughPort, type DatabasePlace } from './database.ts';
import {
  boundStatement,
  Messages,
  parsedStatement,
  queriedText,
  startupParameters,
} from './postgres-messages.ts';

/** A statement that was sent to the database. */
export interface Heard {
  /** `application_name` of its connection. */
  readonly pool: string;
  readonly login: string;
  /** The name that it was prepared under; its text if it has none. */
  readonly name: string;
  readonly text: string;
}

/** A TCP proxy in front of PostgreSQL that writes down every statement, by whichever pool and login. */
export class ListeningProxy implements DatabasePlace {
  readonly heard: Heard[] = [];
  readonly #sockets = new Set<Socket>();

  private constructor(
    /** The database as it is reached through the proxy. */
    readonly url: string,
    readonly urls: DatabasePlace['urls'],
    private readonly listener: Server,
  ) {}

  static async start(place: DatabasePlace): Promise<ListeningProxy> {
    const { hostname, port } = new URL(place.url);
    const listener = createServer();
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    const reached = throughPort(place, (listener.address() as AddressInfo).port);
    const proxy = new ListeningProxy(reached.url, reached.urls, listener);
    listener.on('connection', (client) => proxy.#pass(client, connect(Number(port), hostname)));
    return proxy;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.listener.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #pass(client: Socket, server: Socket): void {
    for (const [side, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(side);
      // Small messages one after the other: each would wait for the acknowledgement of the one before.
      side.setNoDelay(true);
      side.on('error', () => undefined);
      side.on('close', () => {
        this.#sockets.delete(side);
        other.destroy();
      });
    }
    const messages = new Messages(true);
    const hear = this.#listener();
    client.on('data', (bytes) => {
      for (const message of messages.split(bytes)) hear(message);
    });
    client.pipe(server);
    server.pipe(client);
  }

  /** Listens to one connection: its first message says whose it is, and what was prepared on it is known by name later. */
  #listener(): (message: Buffer) => void {
    const prepared = new Map<string, string>();
    let whose: Pick<Heard, 'pool' | 'login'> | undefined;
    return (message) => {
      if (whose === undefined) {
        const parameters = startupParameters(message);
        whose = { pool: parameters.get('application_name') ?? '', login: parameters.get('user') ?? '' };
        return;
      }
      const parsed = parsedStatement(message);
      if (parsed !== undefined) prepared.set(parsed.name, parsed.text);
      const bound = boundStatement(message);
      const text = queriedText(message) ?? (bound === undefined ? undefined : prepared.get(bound));
      if (text !== undefined) this.heard.push({ ...whose, name: bound || text.trim(), text });
    };
  }
}
