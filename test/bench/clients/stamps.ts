import type { Socket } from 'node:net';
import { LatencyRecorder, type Latencies } from './latencies.ts';
import { now } from './wire.ts';

const STAMP = /"at":(\d+)/g;

/** Finds in what comes on streams when each message was meant to be sent. */
export class Stamps {
  #recorder = new LatencyRecorder();
  #left = 0;
  #done: (() => void) | undefined;
  /** What has come of frames whose end has not. */
  readonly #begun = new WeakMap<Socket, string>();

  /** Given to `Sockets`. */
  readonly heard = (text: string, socket: Socket): void => {
    const whole = (this.#begun.get(socket) ?? '') + text;
    const end = whole.lastIndexOf('\n\n');
    this.#begun.set(socket, whole.slice(end + 2));
    const at = now();
    for (const [, stamp] of whole.slice(0, end + 2).matchAll(STAMP)) {
      this.#recorder.record(at - Number(stamp));
      this.#left -= 1;
    }
    if (this.#left === 0) this.#done?.();
  };

  /** Waits until so many have come from now on, and says how long they took. */
  async next(messages: number): Promise<Latencies> {
    this.#recorder = new LatencyRecorder();
    this.#left = messages;
    await new Promise<void>((resolve) => {
      this.#done = resolve;
    });
    return this.#recorder.latencies;
  }
}
