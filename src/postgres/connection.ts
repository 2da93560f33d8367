import pg from 'pg';
import type { DataSourceOptions } from 'typeorm';
import { nameOf, readDatabaseUrl, type DatabaseUrl, type Host } from '../core/database-url.ts';
import { NoWritableHost, reasonOf } from './errors.ts';
import { SET_UP_SESSION } from './session-settings.ts';

/*
 * How the service connects to a database, whoever needs the connection: pools, TypeORM, the checks at a start, commands.
 * The startup message has no settings, because poolers refuse most of them; they are set by a statement.
 */

interface ConnectionOptions {
  url: string;
  /** Shown in `pg_stat_activity`, so that an operator sees who is busy. */
  name: string;
  /** Longest wait for the connection, in ms, for all hosts together. Default: 5 s. */
  connectTimeoutMs?: number;
  /** Longest wait for an answer, in ms. Default: no end. */
  answerTimeoutMs?: number;
}

const CONNECT_TIMEOUT_MS = 5_000;

const types = new pg.TypeOverrides();
// A position fits a number until 2089, see log/position.ts.
types.setTypeParser(pg.types.builtins.INT8, Number);
// `data` is passed on as it was published; parsing would round its numbers.
types.setTypeParser(pg.types.builtins.JSON, (text) => text);
for (const type of [pg.types.builtins.TIMESTAMPTZ, pg.types.builtins.TIMESTAMP, pg.types.builtins.DATE]) {
  const read: (text: string) => unknown = pg.types.getTypeParser(type);
  types.setTypeParser(type, (text) => instantOf(text, read(text)));
}

/** The driver turns an instant that it cannot read into null. It would be taken for an empty column, so it is an error here. */
function instantOf(text: string, read: unknown): Date {
  if (read instanceof Date && !Number.isNaN(read.getTime())) return read;
  throw new Error(`The database wrote an instant that cannot be read: ${text}. Is its DateStyle ISO?`);
}

/** The options of the driver, for a pool as for a single connection. */
export function connectionConfig(options: ConnectionOptions) {
  const url = readDatabaseUrl(options.url);
  const [first, ...others] = url.hosts;
  const connectTimeoutMs = options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
  return {
    connectionString: url.urlOf(first),
    application_name: options.name,
    connectionTimeoutMillis: connectTimeoutMs,
    keepAlive: true,
    types,
    // The server's own timeout is not enough: when the network has dropped the connection, nothing of it arrives.
    ...(options.answerTimeoutMs === undefined ? {} : { query_timeout: options.answerTimeoutMs }),
    ...(others.length === 0 ? {} : { Client: failoverClient(url, connectTimeoutMs) }),
    // The pool waits for it before it hands out the connection, and closes the connection if it fails.
    onConnect: setUp,
  };
}

async function setUp(client: pg.ClientBase): Promise<void> {
  await client.query(SET_UP_SESSION);
}

/** The options of TypeORM, by which it connects as everything else does. */
export function dataSourceOptions(connection: ConnectionOptions) {
  const config = connectionConfig(connection);
  return {
    type: 'postgres',
    // Not as its own settings: it has a way of its own to read a URL, and sends what poolers refuse.
    extra: {
      ...config,
      // As in pool.ts: a connection is kept, and what is said of one that dies while TypeORM does not listen is heard.
      idleTimeoutMillis: 0,
      onConnect: async (client: pg.ClientBase) => {
        client.on('error', () => undefined);
        await config.onConnect(client);
      },
    },
    // The tables are made by migrations, and need no extension.
    synchronize: false,
    installExtensions: false,
    logging: false,
    // Its other loggers write to standard output, which belongs to the structured log.
    logger: 'debug',
  } as const satisfies DataSourceOptions;
}

/** Runs `work` on a connection of its own. */
export async function withConnection<Result>(
  options: ConnectionOptions,
  work: (client: pg.Client) => Promise<Result>,
): Promise<Result> {
  const { Client = pg.Client, ...config } = connectionConfig(options);
  const client = new Client(config);
  // A connection that breaks while idle emits an error, which would end the process. The next query fails anyway.
  client.on('error', () => undefined);
  try {
    await client.connect();
    await setUp(client);
    return await work(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/**
 * A client that, each time it connects, tries the hosts in their order and takes the first that takes writes. So after a
 * failover new connections lead to the new primary. Those to the old one have ended by then, or end with the next
 * statement that fails on them.
 */
function failoverClient(url: DatabaseUrl, connectTimeoutMs: number): typeof pg.Client {
  // Each host may use this time twice, for the connection and for the answer, and the chosen one once more.
  const timeoutMs = Math.ceil(connectTimeoutMs / (2 * url.hosts.length + 1));
  return class extends pg.Client {
    override connect(): Promise<pg.Client>;
    override connect(report: (error: Error | null) => void): void;
    override connect(report?: (error: Error | null) => void): Promise<pg.Client> | void {
      if (report === undefined) return this.#findHost().then(() => super.connect());
      void this.#findHost().then(
        () => super.connect(report),
        (error: Error) => report(error),
      );
    }

    async #findHost(): Promise<void> {
      const { host, port } = await findWritableHost(url, timeoutMs);
      this.host = host;
      this.port = port;
    }
  };
}

async function findWritableHost(url: DatabaseUrl, timeoutMs: number): Promise<Host> {
  const reasons: string[] = [];
  for (const host of url.hosts) {
    const reason = await whyNotWritable(url.urlOf(host), timeoutMs);
    if (reason === undefined) return host;
    reasons.push(`${nameOf(host)} ${reason}`);
  }
  throw new NoWritableHost(reasons);
}

/** Why the server there cannot be used for writes; undefined if it can. */
async function whyNotWritable(url: string, timeoutMs: number): Promise<string | undefined> {
  const client = new pg.Client({
    connectionString: url,
    application_name: 'tidings host check',
    connectionTimeoutMillis: timeoutMs,
    query_timeout: timeoutMs,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ writes: boolean }>(
      `select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off' as writes`,
    );
    return rows[0]?.writes === true ? undefined : 'is read-only';
  } catch (error) {
    return reasonOf(error);
  } finally {
    await client.end().catch(() => undefined);
  }
}
