import { setImmediate } from 'node:timers/promises';

/** How long one piece of work may keep the event loop, in ms: what others wait for a few times on the way of one request. */
const SLICE_MS = 1;

/** Long work for many, cut into slices, between which the event loop serves everybody else. */
export class TimeSlicer {
  #began = performance.now();

  /** The slice has used up its time; `next` has to be awaited before more is done. */
  get isOver(): boolean {
    return performance.now() - this.#began > SLICE_MS;
  }

  async next(): Promise<void> {
    await setImmediate();
    this.#began = performance.now();
  }
}
