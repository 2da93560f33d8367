/*
 * Publishes from a service: Node from 20.3 on, and whatever else has `fetch`. Every attempt of a request has the same
 * Idempotency-Key and the same bytes, so it is stored once, however often it has to be sent.
 */
import { clock as ownClock, type Clock } from './surroundings.ts';
import type { DataTypes } from './wire.ts';

type ToOne = { readonly user: string } | { readonly topic: string } | { readonly everyone: true };
/** One notification each. */
interface ToUsers {
  readonly users: readonly string[];
}

/** A text is RFC 3339. */
type Expiry =
  | { readonly expiresAt?: string | Date; readonly ttlSeconds?: never }
  | { readonly expiresAt?: never; readonly ttlSeconds?: number };

/** A notification before it is stored. */
export type Draft<Types extends DataTypes = DataTypes, To = ToOne | ToUsers> = {
  [Type in keyof Types & string]: Expiry & {
    readonly to: To;
    readonly type: Type;
    readonly data: Types[Type];
    /** `false`: a signal for the app, which no inbox shows. */
    readonly inbox?: boolean;
  };
}[keyof Types & string];

interface Stored {
  readonly id: string;
  readonly position: string;
  /** RFC 3339. */
  readonly createdAt: string;
}

interface Answer {
  /** It was stored by an earlier request with this key: an attempt of this call, or another call. */
  readonly replayed: boolean;
}

export interface StoredOne extends Answer, Stored {}

export interface StoredForUsers extends Answer {
  readonly notifications: readonly (Stored & { readonly user: string })[];
}

/** In the order of the batch; a draft to `users` is one for each of them. */
export interface StoredBatch extends Answer {
  readonly notifications: readonly Stored[];
}

export interface PublishOptions {
  /** 1 to 255 visible ASCII characters: what has the same key is stored once. A UUID when absent. */
  readonly idempotencyKey?: string;
  /** In place of that of the publisher. */
  readonly deadlineMs?: number;
  /** Ends the call. What was sent before may be stored all the same. */
  readonly signal?: AbortSignal;
}

export interface PublisherOptions {
  /** Where the service is: `https://tidings.example.com`. */
  readonly url: string | URL;
  /** Asked at the first call, and again when its token is not accepted. One question serves all calls. */
  readonly token: () => string | Promise<string>;
  /** How long a call may take with all its attempts, in ms. 30,000 when absent. */
  readonly deadlineMs?: number;
  /** After so long without an answer an attempt counts as lost, in ms. 10,000 when absent. */
  readonly attemptMs?: number;
  readonly fetch?: typeof globalThis.fetch;
  readonly clock?: Clock;
  /** 0 to 1. */
  readonly random?: () => number;
}

export interface Publisher<Types extends DataTypes = DataTypes> {
  /**
   * Resolves when the notification is stored. What passes is tried again: lost connections, 429, 502, 503 and 504.
   * @throws PublishError; what `token` throws; the reason of `signal`; TypeError: no request can be made of it
   */
  publish(draft: Draft<Types, ToUsers>, options?: PublishOptions): Promise<StoredForUsers>;
  publish(draft: Draft<Types, ToOne>, options?: PublishOptions): Promise<StoredOne>;
  /** Stores all or none. As `publish`. */
  publishBatch(drafts: readonly Draft<Types>[], options?: PublishOptions): Promise<StoredBatch>;
}

/** Of a problem of the service (RFC 9457). */
interface Said {
  readonly code?: string;
  readonly title?: string;
  readonly detail?: string;
  readonly errors?: readonly Fault[];
}

interface Fault {
  /** RFC 6901, into the body; of a header `/` and its name. */
  readonly pointer: string;
  readonly detail: string;
}

/** What became of an attempt that stored nothing, or may have. */
interface Failure {
  /** Undefined: there was no answer. */
  readonly status?: number;
  /** Empty if it was not the service that answered. */
  readonly said: Said;
  readonly retryAfter?: string | null;
  readonly cause?: unknown;
}

/** The last attempt failed, and there is no other. */
export class PublishError extends Error {
  override readonly name = 'PublishError';
  /** Undefined: there was no answer. */
  readonly status: number | undefined;
  /** That of the service. Undefined: somebody else answered, or nobody. */
  readonly code: string | undefined;
  readonly detail: string | undefined;
  /** What is wrong with the request. */
  readonly errors: readonly Fault[];
  /** True: no attempt stored anything. False: one may have. The same call with the same key finds out. */
  readonly nothingStored: boolean;
  readonly idempotencyKey: string;

  constructor({ status, said, cause }: Failure, nothingStored: boolean, idempotencyKey: string) {
    const { code, title, detail, errors = [] } = said;
    const who = [status ?? 'no answer', code].filter((part) => part !== undefined).join(' ');
    super([who, detail ?? title].filter((part) => part !== undefined).join(': '), { cause });
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.errors = errors;
    this.nothingStored = nothingStored;
    this.idempotencyKey = idempotencyKey;
  }
}

/** A 201 fails only if it was cut off. */
const PASSING: ReadonlySet<number | undefined> = new Set([undefined, 201, 429, 502, 503, 504]);

/** Before the second attempt, in ms; doubled before each that follows, and a random part of it is waited. */
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 10_000;

export function createPublisher<Types extends DataTypes = DataTypes>(
  options: PublisherOptions,
): Publisher<Types> {
  const {
    token: ask,
    attemptMs = 10_000,
    clock = ownClock,
    random = Math.random,
    fetch = (input, init) => globalThis.fetch(input, init),
  } = options;
  const base = `${String(options.url).replace(/\/+$/, '')}/v1/notifications`;
  // A wrong address is told here, and not after thirty seconds of attempts.
  const [single, batch] = [new URL(base), new URL(`${base}/batch`)];
  let held: Promise<string> | undefined;

  const forget = (token: Promise<string>): void => {
    if (held === token) held = undefined;
  };

  /** Where it `stored` something, that is the body of the answer, whose shape follows from the route. */
  async function attempt(url: URL, headers: Headers, body: string, over: AbortSignal) {
    const late = new AbortController();
    const stop = clock.after(attemptMs, () => late.abort(timeout(`There was no answer in ${attemptMs} ms.`)));
    let failure: Failure;
    try {
      const answer = await fetch(url, {
        method: 'POST',
        headers,
        body,
        // Followed, a POST becomes a GET, and the token goes to somebody else.
        redirect: 'manual',
        signal: AbortSignal.any([over, late.signal]),
      });
      const { status, headers: told } = answer;
      const value = parsed(await answer.text());
      if (status === 201 && value !== undefined)
        return { stored: { ...value, replayed: told.get('idempotency-replayed') === 'true' } };
      const said = typeof value?.code === 'string' ? value : {};
      failure = { status, said, retryAfter: told.get('retry-after') };
    } catch (cause) {
      failure = { said: { title: String(cause) }, cause };
    } finally {
      stop();
    }
    return failure;
  }

  const sleep = (ms: number, over: AbortSignal): Promise<void> => {
    let stop = (): void => undefined;
    const slept = new Promise<void>((resolve) => {
      stop = clock.after(ms, resolve);
    });
    return orAborted(slept, over).finally(() => stop());
  };

  async function send(
    url: URL,
    content: unknown,
    {
      idempotencyKey: key = crypto.randomUUID(),
      deadlineMs = options.deadlineMs ?? 30_000,
      signal,
    }: PublishOptions = {},
  ) {
    const body = JSON.stringify(content);
    const headers = new Headers({ 'content-type': 'application/json', 'idempotency-key': key });
    const deadline = new AbortController();
    const passed = timeout(`The deadline of ${deadlineMs} ms has passed.`);
    const end = clock.now() + deadlineMs;
    const stop = clock.after(deadlineMs, () => deadline.abort(passed));
    const over = signal === undefined ? deadline.signal : AbortSignal.any([signal, deadline.signal]);
    let nothingStored = true;
    let mayAskAgain = true;
    try {
      for (let most = FIRST_WAIT_MS; ; most = Math.min(2 * most, LONGEST_WAIT_MS)) {
        const token = (held ??= Promise.resolve().then(ask));
        try {
          headers.set('authorization', `Bearer ${await orAborted(token, over)}`);
        } catch (error) {
          forget(token);
          throw error;
        }
        const outcome = await attempt(url, headers, body, over);
        if ('stored' in outcome) return outcome.stored;
        signal?.throwIfAborted();
        const { status } = outcome;
        nothingStored &&= saysNothingStored(outcome);
        if (status === 401) {
          forget(token);
          if (mayAskAgain) {
            mayAskAgain = false;
            continue;
          }
        }
        // Not before the time that was told, and not all at once.
        const wait = toldMs(outcome.retryAfter, clock.now()) + random() * most;
        if (!PASSING.has(status) || clock.now() + wait >= end)
          throw new PublishError(outcome, nothingStored, key);
        await sleep(wait, over);
      }
    } catch (error) {
      if (error !== passed) throw error;
      throw new PublishError({ said: { title: passed.message }, cause: passed }, nothingStored, key);
    } finally {
      stop();
    }
  }

  function publish(draft: Draft<Types, ToUsers>, forThis?: PublishOptions): Promise<StoredForUsers>;
  function publish(draft: Draft<Types, ToOne>, forThis?: PublishOptions): Promise<StoredOne>;
  function publish(draft: Draft<Types>, forThis?: PublishOptions): Promise<StoredForUsers | StoredOne> {
    return send(single, draft, forThis);
  }

  return {
    publish,
    publishBatch: (notifications, forThis) => send(batch, { notifications }, forThis),
  };
}

const timeout = (message: string): DOMException => new DOMException(message, 'TimeoutError');

/** Undefined: it is no JSON, or not all of it. */
function parsed(text: string) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Of this attempt. Where the connection to the database is lost at the commit, nobody knows; and whatever answers without a
 * code stands before the service, and may have passed the request on.
 */
const saysNothingStored = ({ status = 0, said: { code } }: Failure): boolean =>
  code !== undefined && (status < 500 || (status === 503 && code !== 'database_unavailable'));

/** Of `Retry-After`, in ms: a number of seconds, or a date. */
function toldMs(retryAfter: string | null | undefined, now: number): number {
  if (retryAfter == null) return 0;
  const ms = /^\d+$/.test(retryAfter) ? Number(retryAfter) * 1_000 : Date.parse(retryAfter) - now;
  return Math.max(0, ms || 0);
}

function orAborted<Value>(promise: Promise<Value>, over: AbortSignal): Promise<Value> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(over.reason);
    if (over.aborted) abort();
    over.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject);
  });
}
