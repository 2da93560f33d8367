import type { Socket } from 'node:net';
import { LatencyRecorder, type Latencies } from './latencies.ts';
import { now } from './messages.ts';

const STAMP = /"at":(\d+)/g;

/* Go cuts what is written at once into chunks of 2,048 bytes, wherever that is: https://go.dev/src/net/http/server.go */
const CUT = /\r\n[\da-f]+\r\n/g;

/** Cuts what comes on a stream into events. */
export class Events {
  /** What has come of an event whose end has not. */
  #begun = '';

  /** Those that are whole with what comes now. */
  whole(text: string): string {
    const all = this.#begun + text;
    const end = all.lastIndexOf('\n\n') + 2;
    if (end < 2) {
      this.#begun = all;
      return '';
    }
    this.#begun = all.slice(end);
    return all.slice(0, end);
  }
}

/** Finds in what comes on streams when each message was meant to be sent. */
export class Stamps {
  #recorder = new LatencyRecorder();
  #left = 0;
  #done: (() => void) | undefined;
  readonly #streams = new WeakMap<Socket, Events>();

  /** Given to `Sockets`. */
  readonly heard = (text: string, socket: Socket): void => {
    let events = this.#streams.get(socket);
    if (events === undefined) {
      events = new Events();
      this.#streams.set(socket, events);
    }
    this.read(events.whole(text));
  };

  /** Takes whole events. */
  read(events: string): void {
    const at = now();
    for (const [, stamp] of events.replaceAll(CUT, '').matchAll(STAMP)) {
      this.#recorder.record(at - Number(stamp));
      this.#left -= 1;
    }
    if (this.#left === 0) this.#done?.();
  }

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
