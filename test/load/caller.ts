import { connect, type Socket } from 'node:net';

/** What HTTP may be as far as a load needs it: a body with `content-length`, or none. */
const HEAD = /^HTTP\/1\.1 (\d{3})[^]*?\r\n\r\n/;

/**
 * One connection that posts one request after the other. It costs a tenth of what `fetch` costs, which counts where load and
 * server share a processor.
 */
export class Caller {
  readonly #socket: Socket;
  #answer = '';
  #waiting: { resolve: (status: number) => void; reject: (error: Error) => void } | undefined;

  constructor(port: number, host = '127.0.0.1') {
    this.#socket = connect(port, host).setNoDelay(true).setEncoding('latin1');
    this.#socket.on('data', (text: string) => this.#read(text));
    this.#socket.on('error', (error) => this.#waiting?.reject(error));
    this.#socket.on('close', () => this.#waiting?.reject(new Error('the connection was closed')));
  }

  /** Sends a request as it is on the wire, and says the status of the answer when all of that is here. */
  async send(request: string): Promise<number> {
    return await new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(request);
    });
  }

  close(): void {
    this.#waiting = undefined;
    this.#socket.destroy();
  }

  #read(text: string): void {
    this.#answer += text;
    const head = HEAD.exec(this.#answer);
    if (head === null) return;
    const [{ length }, status] = head;
    const [, size = '0'] = /\r\ncontent-length: *(\d+)/i.exec(head[0]) ?? [];
    if (this.#answer.length < length + Number(size)) return;
    this.#answer = '';
    this.#waiting?.resolve(Number(status));
  }
}

/** So many connections, as a service keeps them. What is sent while all are busy waits for the first that is not. */
export class Callers {
  readonly #all: readonly Caller[];
  readonly #idle: Caller[];
  readonly #waiting: ((caller: Caller) => void)[] = [];

  constructor(port: number, connections: number, host?: string) {
    this.#all = Array.from({ length: connections }, () => new Caller(port, host));
    this.#idle = [...this.#all];
  }

  async send(request: string): Promise<number> {
    // In turn, so that all are in use soon: to a server, one that has not asked for anything yet is new.
    const caller =
      this.#idle.shift() ?? (await new Promise<Caller>((resolve) => this.#waiting.push(resolve)));
    try {
      return await caller.send(request);
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#idle.push(caller);
      else next(caller);
    }
  }

  close(): void {
    for (const caller of this.#all) caller.close();
  }
}

const USUAL = { host: 'localhost', 'content-type': 'application/json' };

/** A POST as it is on the wire, of JSON to `localhost` unless the headers say otherwise. */
export const post = (path: string, body: string, headers: Readonly<Record<string, string>> = {}): string =>
  [
    `POST ${path} HTTP/1.1`,
    ...Object.entries({ ...USUAL, ...headers }).map(([name, value]) => `${name}: ${value}`),
    `content-length: ${Buffer.byteLength(body)}`,
    '',
    body,
  ].join('\r\n');
