import { createHistogram } from 'node:perf_hooks';

/** How long something took, in ms. */
export interface Latencies {
  readonly count: number;
  readonly p50: number;
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
    return { count, p50: ms(50), p99: ms(99), max: max / 1_000 };
  }
}
