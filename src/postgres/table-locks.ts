import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { StartError } from '../core/errors.ts';
import { errorCode } from './errors.ts';

/*
 * How a migration gets the tables that running nodes use. A request for a table stands in a queue: behind a backup or a
 * long query it waits, and every statement of the nodes then waits behind it. So it stands there for a moment only. When it
 * does not get the table, we look who has it, wait for that transaction without asking, and then ask again: a long
 * transaction delays the nodes once, and a migration for as long as it lasts.
 */

/** How long a request may stand in the queue, in ms. What short transactions hold is free by then. */
const BRIEF_MS = 250;
/**
 * The same where short transactions follow one another closely, and behind an autovacuum: that gives in when somebody has
 * waited for PostgreSQL's `deadlock_timeout` (1 s).
 */
const LONGER_MS = 2_000;
/** How many requests are brief. */
const BRIEF_REQUESTS = 3;
/** A pause where nobody was seen to hold the table, and one in which those catch up that waited behind a longer request, in ms. */
const PAUSE_MS = 1_000;
const LONGER_PAUSE_MS = 3_000;
/** How often it is looked whether a request waits, and how often whether a holder is gone, in ms. */
const WATCH_MS = 50;
const OVER_MS = 200;
/** What waits for longer is told, and told again after this time if nothing has changed, in ms. */
const SILENCE_MS = 1_000;
const REPEAT_MS = 10_000;

/** A lock was not given in time, or stood crosswise to another. */
const REFUSED: readonly string[] = ['55P03', '40P01'];

/** Whose transaction stands in the way. */
interface Holder {
  readonly pid: number;
  /** Names the transaction among all of the server. */
  readonly transaction: string;
  readonly name: string;
  /** Null: this login may not see it. */
  readonly since: Date | null;
  /** What is waited for; null: the end of the transaction. */
  readonly table: string | null;
  /** An autovacuum, or what holds a table as lightly. */
  readonly yields: boolean;
}

export interface LockPatience {
  /** Told who is waited for, a sentence at a time. */
  readonly report: (line: string) => void;
  /** Ends the waiting with an AbortError. */
  readonly stop: AbortSignal;
  /** Longest time for all of it, in ms. */
  readonly patienceMs: number;
}

/** The name of the connections that migrate, by which those are found that they wait for. */
export const MIGRATING = 'tidings migrate';

/**
 * Repeats `attempt` until it gets the tables that it needs.
 *
 * @param watch a connection that no transaction is open on
 * @param attempt runs in transactions that end with it, and lets them wait for a lock as long as it is told, in ms
 * @throws StartError that names who holds the table when patience ends, or what `attempt` throws
 */
export async function withTableLocks(
  watch: pg.Client,
  { report, stop, patienceMs }: LockPatience,
  attempt: (lockTimeoutMs: number) => Promise<void>,
): Promise<void> {
  const deadline = performance.now() + patienceMs;
  const tell = teller(report, patienceMs);
  /** Transactions that were asked to yield, and had the time to. */
  const asked = new Set<string>();
  let yielding: readonly Holder[] = [];
  for (let request = 1; ; request += 1) {
    const isBrief = request <= BRIEF_REQUESTS && yielding.length === 0;
    const outcome = await watched(watch, tell, () => attempt(isBrief ? BRIEF_MS : LONGER_MS));
    if (outcome === undefined) return;
    const { cause, holders } = outcome;
    if (!isBrief) for (const { transaction } of holders) asked.add(transaction);
    yielding = holders.filter(({ yields, transaction }) => yields && !asked.has(transaction));
    let left: readonly Holder[] = holders.filter((holder) => !yielding.includes(holder));
    if (!isBrief) await sleep(LONGER_PAUSE_MS, undefined, { signal: stop });
    else if (holders.length === 0) await sleep(PAUSE_MS, undefined, { signal: stop });
    for (; left.length > 0 && performance.now() < deadline; left = await stillThere(watch, left)) {
      tell(left);
      await sleep(OVER_MS, undefined, { signal: stop });
    }
    if (performance.now() < deadline) continue;
    throw new StartError(
      `A table cannot be changed while others hold it${left.length > 0 ? ` (${left.map(inWords).join('; ')})` : ''}: migrate again when that is over, which may be a backup or a long transaction, or end its session (pg_terminate_backend). Nodes that are at work go on.`,
      { cause },
    );
  }
}

/** Undefined if the attempt got its locks; else its error and who held them. Throws every other error. */
async function watched(
  watch: pg.Client,
  tell: (holders: readonly Holder[]) => void,
  attempt: () => Promise<void>,
): Promise<{ readonly cause: unknown; readonly holders: readonly Holder[] } | undefined> {
  const attempted = attempt().then(
    () => undefined,
    (cause: unknown) => ({ cause }),
  );
  let holders: readonly Holder[] = [];
  let waitingSince: number | undefined;
  let failure: { readonly cause: unknown } | 'pending' | undefined = 'pending';
  while (failure === 'pending') {
    const found = await holdersInTheWay(watch);
    if (found.length === 0) waitingSince = undefined;
    else {
      holders = found;
      waitingSince ??= performance.now();
      if (performance.now() - waitingSince > SILENCE_MS) tell(found);
    }
    failure = await Promise.race([attempted, sleep(WATCH_MS, 'pending' as const)]);
  }
  if (failure === undefined) return undefined;
  if (!REFUSED.includes(errorCode(failure.cause) ?? '')) throw failure.cause;
  return { cause: failure.cause, holders };
}

async function holdersInTheWay(watch: pg.Client): Promise<Holder[]> {
  // Names and pids are shown to every login, the time only to one that may read all statistics.
  const { rows } = await watch.query<Holder>(
    `select distinct on (held.virtualtransaction)
       held.pid, held.virtualtransaction as transaction, coalesce(holder.application_name, '') as name, holder.xact_start as since,
       wanted.relation::regclass::text as "table",
       bool_and(wanted.relation is not null and held.mode = 'ShareUpdateExclusiveLock') over (partition by held.virtualtransaction) as yields
     from pg_stat_activity waiting
     join pg_locks wanted on wanted.pid = waiting.pid and not wanted.granted
     join pg_locks held on held.granted and held.pid = any(pg_blocking_pids(waiting.pid))
       and (wanted.relation is null or held.database = wanted.database and held.relation = wanted.relation)
     left join pg_stat_activity holder on holder.pid = held.pid
     where waiting.application_name = $1 and waiting.datname = current_database()
     order by held.virtualtransaction`,
    [MIGRATING],
  );
  return rows;
}

async function stillThere(watch: pg.Client, holders: readonly Holder[]): Promise<readonly Holder[]> {
  const { rows } = await watch.query<{ transaction: string }>(
    'select distinct virtualtransaction as transaction from pg_locks where virtualtransaction = any($1)',
    [holders.map(({ transaction }) => transaction)],
  );
  const there = new Set(rows.map(({ transaction }) => transaction));
  return holders.filter(({ transaction }) => there.has(transaction));
}

/** Tells who is waited for: when that changes, and from time to time. */
function teller(report: (line: string) => void, patienceMs: number): (holders: readonly Holder[]) => void {
  let told = '';
  let at = -Infinity;
  return (holders) => {
    const who = holders.map(inWords).join('; ');
    if (who === told && performance.now() - at < REPEAT_MS) return;
    told = who;
    at = performance.now();
    report(
      `The migration waits for ${who}. Nodes that are at work go on meanwhile. It gives up after ${patienceMs / 1_000} seconds.`,
    );
  };
}

/** No text of a statement, which may hold what people wrote. */
function inWords({ pid, name, since, table }: Holder): string {
  const what = table === null ? 'its transaction' : `the table ${table}`;
  const when = since === null ? '' : ` since ${since.toISOString()}`;
  return `process ${pid} ("${name}"), which has ${what}${table === null ? ' open' : ''}${when}`;
}
