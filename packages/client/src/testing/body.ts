const encoder = new TextEncoder();

/** The body of a stream: what is written is read as the chunks that were written, whatever the reader does meanwhile. */
export class StreamBody {
  readonly readable: ReadableStream<Uint8Array>;
  readonly #chunks: Uint8Array[] = [];
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #wake: () => void = () => undefined;
  #end: { readonly error: unknown } | 'closed' | undefined;
  /** The next event is cut off after so many bytes. */
  #cutAfter: number | undefined;
  #isMuted = false;

  /** @param onCancel its reader has gone */
  constructor(onCancel: () => void) {
    this.readable = new ReadableStream(
      {
        start: (controller) => {
          this.#controller = controller;
        },
        pull: (controller) => this.#next(controller),
        cancel: () => {
          this.#end = 'closed';
          onCancel();
        },
      },
      { highWaterMark: 0 },
    );
  }

  get isOver(): boolean {
    return this.#end !== undefined;
  }

  /** @param tearAt where, from 0 to 1, the bytes are divided into two chunks; undefined: nowhere */
  write(text: string, tearAt?: number): void {
    if (this.isOver || this.#isMuted) return;
    const bytes = encoder.encode(text);
    if (this.#cutAfter !== undefined) {
      this.#push(bytes.slice(0, this.#cutAfter));
      this.cut();
      return;
    }
    const tear = tearAt === undefined ? bytes.length : Math.floor(tearAt * bytes.length);
    this.#push(bytes.slice(0, tear));
    this.#push(bytes.slice(tear));
  }

  close(): void {
    if (this.#isMuted) return;
    this.#end ??= 'closed';
    this.#wake();
  }

  /** The connection is lost: what was written before is read first. */
  cut(): void {
    this.#end ??= { error: new TypeError('network error') };
    this.#wake();
  }

  cutNextAfter(bytes: number): void {
    this.#cutAfter = bytes;
  }

  /** Nothing arrives any more, not even the end. */
  mute(): void {
    this.#isMuted = true;
  }

  /** Its reader has given up: it is over at once. */
  abort(reason: unknown): void {
    if (this.#end === undefined || this.#chunks.length > 0) this.#controller?.error(reason);
    this.#end ??= 'closed';
    this.#chunks.length = 0;
    this.#wake();
  }

  #push(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#chunks.push(bytes);
    this.#wake();
  }

  async #next(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) return controller.enqueue(chunk);
      if (this.#end === 'closed') return closeQuietly(controller);
      if (this.#end !== undefined) return controller.error(this.#end.error);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** It may have been aborted meanwhile. */
function closeQuietly(controller: ReadableStreamDefaultController<Uint8Array>): void {
  if (controller.desiredSize !== null) controller.close();
}
