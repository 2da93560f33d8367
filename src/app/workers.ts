import cluster, { type Worker } from 'node:cluster';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError, engineUrl, type Config } from '../core/config.ts';
import { StartError } from '../core/errors.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { untilAnswers } from '../postgres/open-database.ts';
import { connectionsPerPool } from '../postgres/sessions.ts';
import { endAfter, report, serveNode, SIGNALS } from './node.ts';

/*
 * Several nodes on one port (WORKERS). The primary opens the database, takes the connections of clients and hands each to
 * the next worker; it serves nothing itself. A worker is a node like any other, with a name of its own.
 */

/** Whether this process was made by a primary. */
export const { isWorker } = cluster;

/** What a worker is told first. */
interface Start {
  readonly config: Config;
  /** See INSTANCE. */
  readonly instance: string;
}

type ToWorker =
  | { readonly start: Start }
  | { readonly stop: true }
  /** Asks for the metrics of this worker. */
  | { readonly count: true }
  /** The metrics of all, for the worker that asked. */
  | { readonly text: string };

type ToPrimary =
  | { readonly listens: string }
  /** It cannot start, and why: a sentence for the operator. */
  | { readonly failed: string }
  /** Its metrics, as it would answer them itself. */
  | { readonly counted: string }
  /** Asks for the metrics of all. */
  | { readonly read: true };

/** So many deaths of workers in this time, in ms, end the primary: a fault that comes again is nothing that a start mends. */
const DEATHS = { most: 5, within: 60_000 };
/** Pause before a worker takes the place of one that died, in ms; it doubles with each that died within the minute. */
const FIRST_PAUSE_MS = 250;

/** Metrics are gathered at most once in this time, in ms, since every scrape costs all workers. */
const FRESH_MS = 1_000;
/** Longest wait for those of one worker, in ms. One that hangs is left out. */
const COUNT_PATIENCE_MS = 2_000;

/** Longest NODE_NAME. */
const NAME_LENGTH = 64;

/** The life of the primary. As `serveNode`. */
export async function serveByWorkers(
  config: Config,
  { stop, listens }: { readonly stop: AbortSignal; readonly listens: (origin: string) => void },
): Promise<void> {
  await new Primary(config, stop, listens).serve();
}

class Primary {
  /** Those that run. */
  readonly #workers = new Set<Worker>();
  /** The origin that each of them listens on, once it does. */
  readonly #listening = new Map<Worker, string>();
  readonly #ending = new AbortController();
  /** When workers died lately, in ms of a clock that never goes back. */
  #deaths: number[] = [];
  #hasStarted = false;
  #failure: Error | undefined;

  constructor(
    private readonly config: Config,
    stop: AbortSignal,
    private readonly listens: (origin: string) => void,
  ) {
    if (stop.aborted) this.#ending.abort();
    stop.addEventListener('abort', () => this.#end());
  }

  async serve(): Promise<void> {
    // By turns, whatever the environment says: of connections that are open for hours each worker is to have its part.
    cluster.schedulingPolicy = cluster.SCHED_RR;
    // However this process ends, except by SIGKILL, it leaves nobody behind.
    process.once('exit', () => this.#kill());
    const numbers = Array.from({ length: this.config.WORKERS }, (_, index) => index + 1);
    await Promise.all(
      numbers.map((number) =>
        // What goes wrong here must not leave workers behind that nobody looks after.
        this.#keep(nameOf(this.config, number)).catch((cause: unknown) =>
          this.#end(new Error('A worker could not be kept.', { cause })),
        ),
      ),
    );
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Asks all to drain, once. The first failure is the one that counts. */
  #end(failure?: Error): void {
    this.#failure ??= failure;
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    for (const worker of this.#workers) tell(worker, { stop: true });
    // Of a stop that was asked for, whoever asked says how long it may take.
    if (failure !== undefined)
      setTimeout(() => this.#kill(), this.config.SHUTDOWN_DEADLINE_SECONDS * 1_000).unref();
  }

  #kill(): void {
    for (const worker of this.#workers) worker.process.kill('SIGKILL');
  }

  /** Has one worker of this name live after the other, until the end. */
  async #keep(name: string): Promise<void> {
    const instance = randomUUID();
    const { signal } = this.#ending;
    while (!signal.aborted) {
      const end = await this.#live(name, instance);
      if (signal.aborted) return;
      if (!this.#hasStarted)
        return this.#end(new StartError(`The worker ${name} ended before it listened (${end}).`));
      const now = performance.now();
      this.#deaths = [...this.#deaths.filter((at) => now - at < DEATHS.within), now];
      if (this.#deaths.length >= DEATHS.most)
        return this.#end(
          new StartError(
            `Workers died ${DEATHS.most} times within a minute, at last ${name} (${end}); what they wrote before says why.`,
          ),
        );
      await this.#pause(name, end).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
    }
  }

  /** @throws AbortError when all are to end */
  async #pause(name: string, how: string): Promise<void> {
    const { signal } = this.#ending;
    const pause = FIRST_PAUSE_MS * 2 ** (this.#deaths.length - 1);
    report(`The worker ${name} died (${how}); another one takes its place in ${pause / 1_000} s.`);
    await sleep(pause, undefined, { signal });
    // While the database is away a start fails, and would count as another death, although streams stay open for so long.
    await untilAnswers(
      engineUrl(this.config),
      (reason) => report(`The worker ${name} starts when the database answers: ${reason}`),
      signal,
    );
  }

  /** The life of one worker. Resolves to how it ended: "SIGKILL" or "code 1". */
  async #live(name: string, instance: string): Promise<string> {
    // The owner's login is for the primary alone.
    const worker = cluster.fork({ DATABASE_OWNER_URL: '' });
    this.#workers.add(worker);
    closeWhatIsLost(worker);
    const ended = new Promise<string>((resolve) => {
      // Unlike `exit`, this comes after the last that it said.
      worker.process.once('close', (code, signal) => resolve(signal ?? `code ${code}`));
    });
    worker.on('message', (message: ToPrimary) => void this.#hear(worker, message));
    worker.on('error', ({ message }) => report(`The worker ${name} cannot be reached: ${message}`));
    const config = {
      ...this.config,
      NODE_NAME: name,
      DATABASE_CONNECTIONS_PER_POOL: connectionsPerPool(this.config),
    };
    tell(worker, { start: { config, instance } });
    const how = await ended;
    this.#workers.delete(worker);
    this.#listening.delete(worker);
    if (this.#ending.signal.aborted && how !== 'code 0')
      this.#failure ??= new StartError(`The worker ${name} did not come to its end (${how}).`);
    return how;
  }

  async #hear(worker: Worker, message: ToPrimary): Promise<void> {
    if ('failed' in message) this.#end(new StartError(message.failed));
    if ('read' in message) tell(worker, { text: await this.#metrics() });
    if ('listens' in message) {
      this.#listening.set(worker, message.listens);
      if (this.#hasStarted || this.#listening.size < this.config.WORKERS) return;
      this.#hasStarted = true;
      this.listens(message.listens);
    }
  }

  /** The metrics of all workers. */
  readonly #metrics = atMostOnceIn(FRESH_MS, async () =>
    merged(await Promise.all([...this.#listening.keys()].map(count))),
  );
}

/**
 * Sees to a connection that is on its way to a worker when that dies; there is one at most for each port. Node waits for the
 * worker to say whether it takes it, and so it would be open for ever, with a client that waits for an answer. Nor does
 * Node say then that the worker is disconnected, by which the primary gives up the part that it has in the ports.
 */
function closeWhatIsLost({ process: child }: Worker): void {
  const handed = new Map<unknown, Closable>();
  // Node's own way to hand connections over, too. One that was taken is closed here already; then it does nothing.
  const send = child.send.bind(child);
  Object.assign(child, {
    send(...args: readonly unknown[]): unknown {
      const [message, handle] = args;
      if (isClosable(handle) && typeof message === 'object' && message !== null && 'key' in message)
        handed.set(message.key, handle);
      return Reflect.apply(send, child, args);
    },
  });
  let isTold = false;
  child.once('disconnect', () => (isTold = true));
  child.once('close', () => {
    for (const connection of handed.values()) connection.close();
    if (!isTold) child.emit('disconnect');
  });
}

interface Closable {
  close(): void;
}

const isClosable = (handle: unknown): handle is Closable =>
  typeof handle === 'object' && handle !== null && 'close' in handle && typeof handle.close === 'function';

/** The end of a name tells hosts apart as well as its beginning does, and pods better. */
function nameOf({ NODE_NAME }: Pick<Config, 'NODE_NAME'>, number: number): string {
  const suffix = `-${number}`;
  return `${NODE_NAME.slice(-(NAME_LENGTH - suffix.length))}${suffix}`;
}

/** The metrics of a worker; nothing if it does not say them in time. */
async function count(worker: Worker): Promise<string> {
  return await new Promise((resolve) => {
    const settle = (metrics: string) => {
      clearTimeout(timer);
      worker.off('message', hear);
      resolve(metrics);
    };
    const hear = (message: ToPrimary) => {
      if ('counted' in message) settle(message.counted);
    };
    const timer = setTimeout(settle, COUNT_PATIENCE_MS, '');
    worker.on('message', hear);
    tell(worker, { count: true });
  });
}

/**
 * Metrics of several workers as one page: each metric once, with the series of all. They are not added up. A sum would fall
 * when a worker starts anew, and `increase()` would take what the others have counted for an increase.
 *
 * @param pages in the text format of Prometheus: blocks of two comments and the series, with blank lines between them
 */
export function merged(pages: readonly string[]): string {
  const blocks = new Map<string, string[]>();
  for (const block of pages.flatMap((page) => page.trimEnd().split('\n\n'))) {
    const [help = '', type = '', ...series] = block.split('\n');
    const head = `${help}\n${type}`;
    blocks.set(head, [...(blocks.get(head) ?? []), ...series]);
  }
  return [...blocks].map(([head, series]) => `${[head, ...series].join('\n')}\n`).join('\n');
}

/** One that is not there any more hears nothing; that it has ended is told elsewhere. */
function tell(worker: Worker, message: ToWorker): void {
  if (worker.isConnected()) worker.send(message, () => undefined);
}

/** Makes something at most once in so many ms: whoever asks meanwhile gets the same. */
function atMostOnceIn<Made>(ms: number, make: () => Promise<Made>): () => Promise<Made> {
  let last: { readonly at: number; readonly made: Promise<Made> } | undefined;
  return () => {
    const now = performance.now();
    if (last === undefined || now - last.at > ms) last = { at: now, made: make() };
    return last.made;
  };
}

/**
 * The life of a worker. It ends when the primary says so, and when the primary is gone. Signals are the primary's: a terminal
 * and a supervisor send them to every process of a group.
 */
export async function work(): Promise<void> {
  for (const signal of SIGNALS) process.on(signal, () => undefined);
  const stop = new AbortController();
  const { worker } = cluster;
  worker?.once('disconnect', () => {
    // Or Node would end this process here and now.
    worker.exitedAfterDisconnect = true;
    stop.abort();
  });
  const started = new Promise<Start>((resolve, reject) => {
    process.on('message', (message: ToWorker) => {
      if ('start' in message) resolve(message.start);
      if ('stop' in message) stop.abort();
    });
    stop.signal.addEventListener('abort', () => reject(stop.signal.reason));
  });
  try {
    const { config, instance } = await started;
    stop.signal.addEventListener('abort', () => endAfter(config.SHUTDOWN_DEADLINE_SECONDS));
    // As in serveNode.
    const { Metrics } = await import('../telemetry/metrics.ts');
    await serveNode(config, {
      stop: stop.signal,
      instance,
      listens: (origin) => void tellPrimary({ listens: origin }),
      prepare: (app) => shareMetrics(app.get(Metrics), config.NODE_NAME),
    });
  } catch (error) {
    if (stop.signal.aborted && error instanceof Error && error.name === 'AbortError') return;
    if (!(error instanceof StartError || error instanceof ConfigError)) throw error;
    process.exitCode = 1;
    // Who says it once for all workers.
    await tellPrimary({ failed: error.message });
  } finally {
    if (process.connected) process.disconnect();
  }
}

/** Resolves when it is said. A primary that is gone hears nothing; that it is, this process is told by `disconnect`. */
async function tellPrimary(message: ToPrimary): Promise<void> {
  await new Promise<void>((resolve) => {
    if (process.send === undefined || !process.connected) return resolve();
    process.send(message, undefined, undefined, () => resolve());
  });
}

/** Has a worker answer with the metrics of all, and tell its own to whoever else is asked. */
function shareMetrics(metrics: Metrics, worker: string): void {
  const own = () => metrics.registry.metrics();
  const waiting: ((text: string | Promise<string>) => void)[] = [];
  const answer = (text: string | Promise<string>) => {
    for (const resolve of waiting.splice(0)) resolve(text);
  };
  metrics.registry.setDefaultLabels({ worker });
  process.on('message', (message: ToWorker) => {
    // One that cannot say them is left out, like one that hangs.
    if ('count' in message)
      void own().then(
        (counted) => tellPrimary({ counted }),
        () => undefined,
      );
    if ('text' in message) answer(message.text);
  });
  process.once('disconnect', () => answer(own()));
  metrics.read = atMostOnceIn(FRESH_MS, async () => {
    if (!process.connected) return await own();
    return await new Promise<string>((resolve) => {
      waiting.push(resolve);
      void tellPrimary({ read: true });
    });
  });
}
