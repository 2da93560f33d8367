import { createHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from './messages.ts';

/** How long something took, in ms. */
export interface Latencies {
  readonly count: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

/** What was measured in one round. Node's histograms are HdrHistogram: three figures are kept, up to an hour. */
export class LatencyRecorder {
  readonly #histogram = createHistogram({ lowest: 1, highest: 3_600_000_000, figures: 3 });

  /** In µs. What is faster than the clock counts as 1. */
  record(us: number): void {
    this.#histogram.record(Math.max(1, us));
  }

  get latencies(): Latencies {
    const { count, max } = this.#histogram;
    const ms = (part: number) => this.#histogram.percentile(part) / 1_000;
    return { count, p50: ms(50), p95: ms(95), p99: ms(99), max: max / 1_000 };
  }
}

export interface Throughput extends Latencies {
  /** What was done in a second. */
  readonly perSecond: number;
}

/** Each of `workers` does one piece of work after the other, for so many seconds. */
export async function inClosedLoops<Worker>(
  workers: readonly Worker[],
  seconds: number,
  work: (worker: Worker) => Promise<void>,
): Promise<Throughput> {
  const recorder = new LatencyRecorder();
  const until = now() + seconds * 1_000_000;
  const loop = async (worker: Worker): Promise<void> => {
    for (let began = now(); began < until; began = now()) {
      await work(worker);
      recorder.record(now() - began);
    }
  };
  await Promise.all(workers.map(loop));
  const { latencies } = recorder;
  return { ...latencies, perSecond: latencies.count / seconds };
}

/**
 * Begins so many pieces of work, so many a second, whether those before are done or not. What is measured counts from when
 * each was meant to begin, so that nothing is left out because something else was slow.
 *
 * @param work is told its number, from 0, and when it was meant to begin, in µs
 */
export async function inOpenLoop(
  perSecond: number,
  pieces: number,
  work: (n: number, meant: number) => Promise<void>,
): Promise<Latencies> {
  const recorder = new LatencyRecorder();
  const begin = async (n: number, meant: number): Promise<void> => {
    await work(n, meant);
    recorder.record(now() - meant);
  };
  const began = now();
  const begun: Promise<void>[] = [];
  for (let n = 0; n < pieces; n += 1) {
    const meant = began + Math.round((n * 1_000_000) / perSecond);
    const early = meant - now();
    if (early > 0) await sleep(early / 1_000);
    begun.push(begin(n, meant));
  }
  await Promise.all(begun);
  return recorder.latencies;
}
