import pg from 'pg';
import { nameOf, readDatabaseUrl, type DatabaseUrl, type Host } from '../core/database-url.ts';
import { NoWritableHost, reasonOf } from './errors.ts';
import { SET_UP_SESSION } from './session-settings.ts';

/*
 * The one place that says how the service connects to a database: pools, TypeORM, checks before the start, and commands.
 * The first message holds nothing that poolers refuse.
 */

export interface ConnectionOptions {
  url: string;
  /** Shown in `pg_stat_activity`, so that an operator sees who is busy. */
  name: string;
  /** Longest wait for the connection, all hosts together; default 5 s. */
  connectTimeoutMs?: number;
  /** Longest wait for an answer. Absent: for ever. */
  answerTimeoutMs?: number;
}

const CONNECT_TIMEOUT_MS = 5_000;

const types = new pg.TypeOverrides();
// A position fits a number until 2089, see log/position.ts.
types.setTypeParser(pg.types.builtins.INT8, Number);
// `data` is passed on as it came; parsing would round its numbers.
types.setTypeParser(pg.types.builtins.JSON, (text) => text);
for (const type of [pg.types.builtins.TIMESTAMPTZ, pg.types.builtins.TIMESTAMP, pg.types.builtins.DATE]) {
  const read: (text: string) => unknown = pg.types.getTypeParser(type);
  types.setTypeParser(type, (text) => instantOf(text, read(text)));
}

/** The driver makes null of what it cannot read, and null is how a column says that there is no bound. */
function instantOf(text: string, read: unknown): Date {
  if (read instanceof Date && !Number.isNaN(read.getTime())) return read;
  throw new Error(`The database wrote an instant that cannot be read: ${text}. Is its DateStyle ISO?`);
}

/** What the driver is told, of a pool as of a single connection. */
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
    // The server's own limit cannot be heard when the network has swallowed the connection.
    ...(options.answerTimeoutMs === undefined ? {} : { query_timeout: options.answerTimeoutMs }),
    ...(others.length === 0 ? {} : { Client: clientOf(url, connectTimeoutMs) }),
    // Awaited by the pool: nobody gets the connection before, and nobody gets it at all should this fail.
    onConnect: setUp,
  };
}

async function setUp(client: pg.ClientBase): Promise<void> {
  await client.query(SET_UP_SESSION);
}

/** Runs `work` on a connection of its own. */
export async function withConnection<Result>(
  options: ConnectionOptions,
  work: (client: pg.Client) => Promise<Result>,
): Promise<Result> {
  const { Client = pg.Client, ...config } = connectionConfig(options);
  const client = new Client(config);
  // It may break while nothing is asked of it; what is asked next then fails by itself.
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
 * A client that looks for the server that takes writes among several, in their order, each time that it connects: after a
 * failover a new connection finds the new one. Those to the old one have ended by then, or are closed by what fails on them.
 */
function clientOf(url: DatabaseUrl, connectTimeoutMs: number): typeof pg.Client {
  // Each may take its time twice, for the connection and for the answer, before the last one is connected to.
  const patienceMs = Math.ceil(connectTimeoutMs / (2 * url.hosts.length + 1));
  return class extends pg.Client {
    override connect(): Promise<pg.Client>;
    override connect(tell: (error: Error | null) => void): void;
    override connect(tell?: (error: Error | null) => void): Promise<pg.Client> | void {
      if (tell === undefined) return this.#look().then(() => super.connect());
      void this.#look().then(
        () => super.connect(tell),
        (error: Error) => tell(error),
      );
    }

    async #look(): Promise<void> {
      const { host, port } = await writable(url, patienceMs);
      this.host = host;
      this.port = port;
    }
  };
}

async function writable(url: DatabaseUrl, patienceMs: number): Promise<Host> {
  const reasons: string[] = [];
  for (const host of url.hosts) {
    const reason = await whyNot(url.urlOf(host), patienceMs);
    if (reason === undefined) return host;
    reasons.push(`${nameOf(host)} ${reason}`);
  }
  throw new NoWritableHost(reasons);
}

/** Why the server there is of no use, if it is not. */
async function whyNot(url: string, patienceMs: number): Promise<string | undefined> {
  const client = new pg.Client({
    connectionString: url,
    application_name: 'tidings host check',
    connectionTimeoutMillis: patienceMs,
    query_timeout: patienceMs,
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
