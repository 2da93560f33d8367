import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { connectionConfig } from './connection.ts';

/** Longest wait for an answer, in ms. */
const ANSWER_MS = 1_000;
/** How often the connection is asked whether it still is one, in ms: what a network has dropped says nothing by itself. */
const ALIVE_MS = 2_000;

/** The process of the server that a connection leads to, and how full its queue of notifications is. */
interface Session {
  readonly pid: number;
  readonly usage: number;
}

interface ListenOptions {
  readonly url: string;
  readonly channel: string;
  /** Is given what somebody notified. */
  readonly hear: (payload: string) => void;
  /** It hears from now on. What was notified before is lost. */
  readonly connected: () => void;
  /** How full the server's queue of notifications is, 0 to 1: it fills while a session listens and does not read. */
  readonly queueUsage: (share: number) => void;
  readonly signal: AbortSignal;
}

/**
 * Hears what is notified on a channel, on a connection of its own, until `signal` says to stop. Throws why it cannot.
 *
 * PostgreSQL keeps nothing for who does not listen, so this may be lost at any time and must never be all that is relied on.
 */
export async function listen(options: ListenOptions): Promise<void> {
  const client = clientOf(options.url, 'tidings listener');
  // A client emits its end twice when its session is terminated. Nobody else may be told: unheard, it ends the process.
  const ended = new AbortController();
  client.on('error', () => ended.abort()).on('end', () => ended.abort());
  client.on('notification', ({ payload }) => options.hear(payload ?? ''));
  try {
    await client.connect();
    const pid = await refusePooler(client, options.url);
    await client.query(`listen ${pg.escapeIdentifier(options.channel)}`);
    options.connected();
    const over = AbortSignal.any([ended.signal, options.signal]);
    while (!over.aborted) {
      const { rows } = await client.query<Session>(
        'select pg_backend_pid() as pid, pg_notification_queue_usage() as usage',
      );
      const [{ pid: now, usage } = { pid: undefined, usage: 0 }] = rows;
      if (now !== pid) throw poolerBetween();
      options.queueUsage(usage);
      await sleep(ALIVE_MS, undefined, { signal: over }).catch(() => undefined);
    }
    if (ended.signal.aborted) throw new Error('the connection was ended');
  } finally {
    await client.end().catch(() => undefined);
  }
}

/**
 * A pooler that lends sessions for a transaction takes the session away behind `listen`, and what is notified ends there. A
 * notification of one's own comes back all the same, since it runs in that session. So somebody else takes a session in
 * between: behind such a pooler this client then gets another one, or none. Returns the process of the server that it has; on a
 * busy pooler it may be the same one by chance, and is another one later.
 */
async function refusePooler(client: pg.Client, url: string): Promise<number | undefined> {
  const before = await pidOf(client);
  const other = clientOf(url, 'tidings pooler check');
  other.on('error', () => undefined);
  try {
    await other.connect();
    await other.query('begin');
    await other.query('select 1');
    // No answer in time: the pooler has no other session to lend.
    const after = await pidOf(client).catch(() => undefined);
    if (after !== before) throw poolerBetween();
    return after;
  } finally {
    await other.end().catch(() => undefined);
  }
}

const poolerBetween = (): Error =>
  new Error(
    'a pooler in transaction mode is between: name a direct way to the database as DATABASE_LISTEN_URL',
  );

function clientOf(url: string, name: string): pg.Client {
  const { Client = pg.Client, ...config } = connectionConfig({
    url,
    name,
    connectTimeoutMs: ANSWER_MS,
    answerTimeoutMs: ANSWER_MS,
  });
  return new Client(config);
}

async function pidOf(client: pg.Client): Promise<number | undefined> {
  const { rows } = await client.query<Pick<Session, 'pid'>>('select pg_backend_pid() as pid');
  return rows[0]?.pid;
}
