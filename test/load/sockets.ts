import { connect, type Socket } from 'node:net';
import { userToken } from '../support/tokens.ts';

/** What a stream is asked for with, and what it has said when it is open. */
export interface Subscription {
  /** HTTP, as it is on the wire. */
  readonly request: string;
  readonly ready: string;
}

/** A stream of Tidings: it is open when it has all that there is. */
export const subscriptionBy = (token: string): Subscription => ({
  request: `GET /v1/stream HTTP/1.1\r\nhost: tidings\r\naccept: text/event-stream\r\nauthorization: Bearer ${token}\r\n\r\n`,
  ready: 'event: caught-up',
});

/** The streams of so many users of one tenant. */
export const usersOf = (tenant: string, count: number): Subscription[] =>
  Array.from({ length: count }, (_, n) => subscriptionBy(userToken({ tenant, user: `user-${n}` })));

/** Many streams, with as little work for each as can be: thousands share this process. */
export class Sockets {
  readonly #open = new Set<Socket>();

  constructor(
    private readonly port: number,
    private readonly subscriptions: readonly Subscription[],
    /** Called with all that comes on a stream; what came before it was open in one piece. */
    private readonly heard?: (text: string, socket: Socket) => void,
  ) {}

  /** Opens all streams, so many at a time; resolves when each of them is open. */
  async openAll(atOnce = Infinity): Promise<void> {
    const waiting = this.subscriptions.values();
    const open = async (): Promise<void> => {
      for (const subscription of waiting) await this.#opened(subscription);
    };
    await Promise.all(Array.from({ length: Math.min(atOnce, this.subscriptions.length) }, open));
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

  #opened({ request, ready }: Subscription): Promise<void> {
    const socket = connect(this.port, '127.0.0.1').setEncoding('latin1');
    this.#open.add(socket);
    return new Promise((resolve, reject) => {
      let head = '';
      const read = (text: string): void => {
        head += text;
        if (!head.includes(ready)) return;
        socket.off('data', read).off('close', lost);
        const { heard } = this;
        if (heard === undefined) socket.resume();
        else {
          socket.on('data', (more: string) => heard(more, socket));
          heard(head, socket);
        }
        resolve();
      };
      const lost = (): void => reject(new Error(`a stream ended before it was open: ${head}`));
      socket
        .on('data', read)
        .on('close', lost)
        // `close` follows.
        .on('error', () => undefined)
        .write(request);
    });
  }
}
