interface Reply {
  readonly id?: number;
  readonly type: 'success' | 'error' | 'event';
  readonly result?: unknown;
  readonly error?: string;
  readonly message?: string;
}

/** A session with a browser that speaks WebDriver BiDi (https://w3c.github.io/webdriver-bidi/). */
export class BidiSession {
  #sent = 0;
  readonly #waiting = new Map<number, (reply: Reply) => void>();

  private constructor(private readonly socket: WebSocket) {
    socket.addEventListener('message', ({ data }) => {
      const reply = JSON.parse(String(data)) as Reply;
      if (reply.id !== undefined) this.#settle(reply.id, reply);
    });
    socket.addEventListener('close', () => {
      for (const id of this.#waiting.keys())
        this.#settle(id, { type: 'error', message: 'the browser is gone' });
    });
  }

  /** `address`: what the browser says it listens on. */
  static async start(address: string): Promise<BidiSession> {
    const socket = new WebSocket(`${address}/session`);
    await new Promise<void>((resolve, reject) => {
      socket.addEventListener('open', () => resolve());
      socket.addEventListener('error', () => reject(new Error(`no connection to the browser at ${address}`)));
    });
    const session = new BidiSession(socket);
    await session.send('session.new', { capabilities: {} });
    return session;
  }

  async send<Result>(method: string, params: Record<string, unknown>): Promise<Result> {
    const id = (this.#sent += 1);
    const reply = await new Promise<Reply>((resolve) => {
      this.#waiting.set(id, resolve);
      this.socket.send(JSON.stringify({ id, method, params }));
    });
    if (reply.type === 'error') throw new Error(`${method}: ${reply.error ?? ''} ${reply.message ?? ''}`);
    return reply.result as Result;
  }

  #settle(id: number, reply: Reply): void {
    this.#waiting.get(id)?.(reply);
    this.#waiting.delete(id);
  }
}
