import { connect, type Socket } from 'node:net';
import { userToken } from '../support/tokens.ts';
import { atOnce } from './at-once.ts';

/** What a stream is asked for with, and what it has said when it is open. */
export interface Subscription {
  /** HTTP, as it is on the wire. */
  readonly request: string;
  readonly ready: string;
}

/** An answer that is no stream. */
const REFUSED = /^HTTP\/1\.1 (?!200)\d{3}/;

/** A stream of Tidings: it is open when it has all that there is, behind the event of that id if one is named. */
export const subscriptionBy = (token: string, lastEventId?: string): Subscription => ({
  request: [
    'GET /v1/stream HTTP/1.1',
    'host: tidings',
    'accept: text/event-stream',
    `authorization: Bearer ${token}`,
    ...(lastEventId === undefined ? [] : [`last-event-id: ${lastEventId}`]),
    '\r\n',
  ].join('\r\n'),
  ready: 'event: caught-up',
});

/** The streams of so many users of one tenant. */
export const usersOf = (tenant: string, count: number): Subscription[] =>
  Array.from({ length: count }, (_, n) => subscriptionBy(userToken({ tenant, user: `user-${n}` })));

/** Told all that comes on a stream; what came before it was open in one piece. */
type Heard = (text: string, socket: Socket) => void;

/**
 * Opens a stream, with as little work as can be: thousands share a process.
 *
 * @param begun is given the socket at once
 */
export function openStream(
  { port, host = '127.0.0.1' }: { readonly port: number; readonly host?: string },
  { request, ready }: Subscription,
  heard?: Heard,
  begun?: (socket: Socket) => void,
): Promise<Socket> {
  const socket = connect(port, host).setEncoding('latin1');
  begun?.(socket);
  return new Promise((resolve, reject) => {
    let head = '';
    const read = (text: string): void => {
      head += text;
      // Whoever refuses a stream may keep the connection. `close` follows.
      if (REFUSED.test(head)) socket.destroy();
      if (socket.destroyed || !head.includes(ready)) return;
      socket.off('data', read).off('close', lost);
      if (heard === undefined) socket.resume();
      else {
        socket.on('data', (more: string) => heard(more, socket));
        heard(head, socket);
      }
      resolve(socket);
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

/** Many streams. */
export class Sockets {
  readonly #open = new Set<Socket>();

  constructor(
    readonly port: number,
    private readonly subscriptions: readonly Subscription[],
    private readonly heard?: Heard,
    readonly host = '127.0.0.1',
  ) {}

  /** Opens all streams, so many at a time; resolves when each of them is open. */
  async openAll(most = Infinity): Promise<void> {
    await atOnce(most, this.subscriptions, (subscription) =>
      openStream(this, subscription, this.heard, (socket) => this.#open.add(socket)),
    );
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
}
