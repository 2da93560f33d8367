import { connect, type Socket } from 'node:net';
import { userToken } from '../../support/tokens.ts';

/** The streams of many users of one tenant, with as little work for each as can be: thousands share this process. */
export class Sockets {
  readonly #open = new Set<Socket>();
  readonly #tokens: readonly string[];
  readonly #host: string;
  readonly #port: number;

  constructor(url: string, tenant: string, count: number) {
    const { hostname, port } = new URL(url);
    [this.#host, this.#port] = [hostname, Number(port)];
    this.#tokens = Array.from({ length: count }, (_, n) => userToken({ tenant, user: `user-${n}` }));
  }

  /** Opens a stream for each user; resolves when each of them has all there is. */
  async openAll(): Promise<void> {
    await Promise.all(this.#tokens.map((token) => this.#opened(token)));
  }

  /** Cuts them all at once. */
  cutAll(): void {
    for (const socket of this.#open) socket.destroy();
    this.#open.clear();
  }

  pauseAll(): void {
    for (const socket of this.#open) socket.pause();
  }

  resumeAll(): void {
    for (const socket of this.#open) socket.resume();
  }

  #opened(token: string): Promise<void> {
    const socket = connect(this.#port, this.#host).setEncoding('latin1');
    this.#open.add(socket);
    return new Promise((resolve, reject) => {
      let head = '';
      const read = (text: string): void => {
        head += text;
        if (!head.includes('event: caught-up')) return;
        socket.off('data', read).off('close', lost).resume();
        resolve();
      };
      const lost = (): void => reject(new Error(`a stream ended before it had caught up: ${head}`));
      socket
        .on('data', read)
        .on('close', lost)
        // `close` follows.
        .on('error', () => undefined)
        .write(
          `GET /v1/stream HTTP/1.1\r\nhost: tidings\r\naccept: text/event-stream\r\nauthorization: Bearer ${token}\r\n\r\n`,
        );
    });
  }
}
