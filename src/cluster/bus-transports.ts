import type { NatsConnection } from '@nats-io/transport-node';
import { engineUrl, type Config } from '../core/config.ts';
import { listen } from '../postgres/listener.ts';
import { Pool, type Statement } from '../postgres/pool.ts';

/** How the messages of the bus get from node to node. None has to arrive. */
export interface BusTransport {
  /** The pause behind a sending that took so long, both in ms. What is said meanwhile goes together. */
  pauseAfter(tookMs: number): number;
  /** Resolves when whoever passes the messages on has them. Throws when that takes longer than SEND_TIMEOUT_MS, or cannot be. */
  send(messages: readonly string[]): Promise<void>;
  /**
   * Hears what is sent by any node, this one among them, until `signal` says to stop. Throws why it cannot any more.
   *
   * @param connected is told when it hears; what was sent before is lost
   */
  listen(hear: (message: string) => void, connected: () => void, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** What was not sent by then is known to the others by their poll, in ms. */
const SEND_TIMEOUT_MS = 1_000;

/** The channel of PostgreSQL, or the subject of NATS. */
const CHANNEL = 'tidings';

/** A statement of its own, and never part of an append: NOTIFY takes a lock of the whole database at its commit. */
const NOTIFY: Statement = {
  name: 'bus_notify',
  text: `select pg_notify($1, message) from unnest($2::text[]) as message`,
};

/** LISTEN and NOTIFY of the database that is there anyway. */
export class PostgresTransport implements BusTransport {
  readonly #notifier: Pool;

  constructor(
    private readonly config: Config,
    private readonly queueUsage: (share: number) => void,
  ) {
    this.#notifier = new Pool({
      url: engineUrl(config),
      name: 'bus',
      connections: 1,
      connectTimeoutMs: SEND_TIMEOUT_MS,
      statementTimeoutMs: SEND_TIMEOUT_MS,
      preparedStatements: config.DATABASE_PREPARED_STATEMENTS,
    });
  }

  /** A hundred a second at most, and fewer where the database is busy: it has appends to make. */
  pauseAfter(tookMs: number): number {
    return Math.min(250, Math.max(10, 4 * tookMs));
  }

  async send(messages: readonly string[]): Promise<void> {
    await this.#notifier.rows(NOTIFY, [CHANNEL, messages]);
  }

  async listen(hear: (message: string) => void, connected: () => void, signal: AbortSignal): Promise<void> {
    const url = this.config.DATABASE_LISTEN_URL ?? engineUrl(this.config);
    await listen({ url, channel: CHANNEL, hear, connected, queueUsage: this.queueUsage, signal });
  }

  async close(): Promise<void> {
    await this.#notifier.end();
  }
}

/** Publish and subscribe of NATS, without JetStream: what has to last is in the log. */
export class NatsTransport implements BusTransport {
  readonly #servers: string[];
  readonly #credentials: { user?: string; pass?: string };
  readonly #isSecured: boolean;
  #connection: NatsConnection | undefined;

  constructor(
    urls: readonly string[],
    private readonly nodeName: string,
  ) {
    const parsed = urls.map((url) => new URL(url));
    this.#servers = parsed.map(({ host }) => host);
    this.#isSecured = parsed.some(({ protocol }) => protocol === 'tls:');
    const [{ username, password } = { username: '', password: '' }] = parsed;
    this.#credentials =
      username === '' ? {} : { user: decodeURIComponent(username), pass: decodeURIComponent(password) };
  }

  pauseAfter(): number {
    return 2;
  }

  async send(messages: readonly string[]): Promise<void> {
    const connection = this.#connection;
    if (connection === undefined) throw new Error('NATS is not connected');
    for (const message of messages) connection.publish(CHANNEL, message);
    await before(AbortSignal.timeout(SEND_TIMEOUT_MS), connection.flush(), 'NATS does not answer');
  }

  async listen(hear: (message: string) => void, connected: () => void, signal: AbortSignal): Promise<void> {
    // Only where it is used: it takes 8 MiB.
    const { connect } = await import('@nats-io/transport-node');
    const connection = await connect({
      servers: this.#servers,
      ...this.#credentials,
      ...(this.#isSecured ? { tls: {} } : {}),
      name: `tidings ${this.nodeName}`,
      // Whoever called this calls it again.
      reconnect: false,
      timeout: SEND_TIMEOUT_MS,
      // What a network has dropped says nothing by itself.
      pingInterval: 2_000,
      maxPingOut: 2,
    });
    try {
      const failed = failureOf(connection);
      connection.subscribe(CHANNEL, {
        // An error is told by the connection's status as well.
        callback: (error, message) => (error === null ? hear(message.string()) : undefined),
      });
      await connection.flush();
      this.#connection = connection;
      connected();
      throw await before(signal, failed, 'stopped');
    } finally {
      this.#connection = undefined;
      await connection.close();
    }
  }

  async close(): Promise<void> {
    // Its connection ended with `listen`.
  }
}

/** What the server complains of: that the login may not say or hear anything on the subject, for one. */
async function failureOf(connection: NatsConnection): Promise<Error> {
  for await (const status of connection.status()) if (status.type === 'error') return status.error;
  return new Error('the connection was ended');
}

/** What `work` comes to, unless `signal` says first that it is too late: that is thrown, with this reason. */
async function before<Result>(signal: AbortSignal, work: Promise<Result>, reason: string): Promise<Result> {
  const over = new AbortController();
  const stopped = new Promise<never>((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(new Error(reason)), { signal: over.signal });
  });
  return await Promise.race([work, stopped]).finally(() => over.abort());
}
