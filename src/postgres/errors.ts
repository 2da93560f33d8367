import { Problem } from '../core/errors.ts';

/** The SQLSTATE or system code of an error, if it has one. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string')
    return error.code;
  return undefined;
}

/** Why a connection failed, for people. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // A name with several addresses fails with several errors, which have no message together, only a code.
  return error.message || ('code' in error ? String(error.code) : error.name);
}

/** No server of the URL takes writes at the moment, which in a failover lasts for a while. */
export class NoWritableHost extends Error {
  override readonly name = 'NoWritableHost';
  /** `cannot_connect_now` (class 57): the statement was not sent, and may be later. */
  readonly code = '57P03';

  constructor(reasons: readonly string[]) {
    super(`none of its servers takes writes: ${reasons.join('; ')}`);
  }
}

/**
 * SQLSTATEs after which the statement did not happen or cannot be known to have happened because the server or
 * the connection went away: class 08, class 57P (shutdown, terminated), 53300 (no connections left).
 */
const LOST = /^(?:08|57P|53300)/;

/** This process, or its machine, may not open another connection. */
const NO_DESCRIPTOR: readonly string[] = ['EMFILE', 'ENFILE'];

const SOCKET_ERRORS = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENOENT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  ...NO_DESCRIPTOR,
]);

/** True when the database, or the way to it, is gone. For a statement under way this means: the outcome is unknown. */
export function isConnectionLoss(error: unknown): boolean {
  const code = errorCode(error);
  if (code !== undefined) return LOST.test(code) || SOCKET_ERRORS.has(code);
  // `pg` reports these without a code.
  return (
    error instanceof Error &&
    /Connection terminated|Query read timeout|timeout expired|timeout exceeded when trying to connect|Client has encountered a connection error|Cannot use a pool after calling end/.test(
      error.message,
    )
  );
}

/** True when there was no connection for the statement, so that it certainly did not run. */
export function isNeverSent(error: unknown): boolean {
  const code = errorCode(error);
  if (code !== undefined)
    return [
      'ECONNREFUSED',
      'ENOTFOUND',
      'EAI_AGAIN',
      'ENOENT',
      '57P03',
      '53300',
      'ACQUIRE_TIMEOUT',
      ...NO_DESCRIPTOR,
    ].includes(code);
  return (
    error instanceof Error &&
    /timeout expired|timeout exceeded when trying to connect|Connection terminated due to connection timeout/.test(
      error.message,
    )
  );
}

/**
 * Runs what does no harm when it is done twice. A connection that dies under it leaves open whether it was committed, so it is
 * run again. `again`: this is the second time.
 */
export async function repeatedOnLoss<Result>(work: (again: boolean) => Promise<Result>): Promise<Result> {
  try {
    return await work(false);
  } catch (error) {
    if (!isConnectionLoss(error) || isNeverSent(error)) throw error;
    return await work(true);
  }
}

/** No room left on the disk of the database. */
const FULL = '53100';

/**
 * The statement was given up in favour of others and had no effect: 57014 ran into its time limit, mostly behind a lock;
 * 25P03 and 25P04 ran into the limit of an idle and of any transaction, and the session was ended before the commit;
 * 55P03 did not get its lock in time; class 40 met another transaction; the rest of class 53 found no memory or no
 * descriptor; ACQUIRE_TIMEOUT (AcquireTimeout) waited for other statements of its own tenant.
 */
const BUSY = /^(?:57014|25P03|25P04|55P03|40|53|ACQUIRE_TIMEOUT)/;

/** 25006: a server that takes no writes (a standby, in a failover). Class 58: the operating system failed the server. */
const FAILING = /^(?:25006|58)/;

const isBusy = (code: string): boolean => BUSY.test(code) && code !== FULL && !LOST.test(code);

/** True when the same statement may well succeed in a while. */
export function isUnavailable(error: unknown): boolean {
  const code = errorCode(error) ?? '';
  return isConnectionLoss(error) || isBusy(code) || code === FULL || FAILING.test(code);
}

/** The SQLSTATE of a database that answers and can store nothing for anybody, because it is full or takes no writes. */
export function failureOf(error: unknown): string | undefined {
  const code = errorCode(error);
  return code !== undefined && (code === FULL || FAILING.test(code)) ? code : undefined;
}

/** What a caller is told of an error that `isUnavailable`. */
export function databaseUnavailable(cause: unknown): Problem {
  const code = errorCode(cause) ?? '';
  if (NO_DESCRIPTOR.includes(code))
    return new Problem('overloaded', 'This node has as many connections as it may.', {
      retryAfter: 1,
      cause,
    });
  if (code === FULL)
    return new Problem('database_full', 'The disk of the database is full.', { retryAfter: 5, cause });
  if (isBusy(code))
    return new Problem(
      'database_busy',
      'The database answers, and did not come to this in time: mostly somebody holds a lock on what it concerns.',
      { retryAfter: 2, cause },
    );
  return new Problem('database_unavailable', 'The database cannot be reached at the moment.', {
    retryAfter: 2,
    cause,
  });
}
