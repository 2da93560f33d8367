import { request, type ClientRequest, type IncomingMessage } from 'node:http';
import { createParser, type EventSourceMessage } from 'eventsource-parser';

export interface NotificationEvent {
  readonly id: string;
  readonly type: string;
  readonly to: Record<string, unknown>;
  readonly data: unknown;
  readonly createdAt: string;
  readonly expiresAt: string | null;
}

interface OpenOptions {
  lastEventId?: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  /** Reads nothing until `resume` is called. */
  paused?: boolean;
}

/** A stream as a test sees it: every event in order, and a way to wait for one. */
export class StreamClient {
  readonly events: EventSourceMessage[] = [];
  readonly comments: string[] = [];
  readonly retries: number[] = [];
  /** Everything that came, as text. */
  raw = '';
  ended = false;
  /** Resolves when the connection is over, whoever ended it. */
  readonly closed: Promise<void>;
  readonly #waiting = new Set<() => void>();

  private constructor(
    readonly response: IncomingMessage,
    private readonly outgoing: ClientRequest,
  ) {
    const parser = createParser({
      onEvent: (event) => this.events.push(event),
      onComment: (comment) => this.comments.push(comment),
      onRetry: (retry) => this.retries.push(retry),
    });
    response.setEncoding('utf8');
    response.on('data', (text: string) => {
      this.raw += text;
      parser.feed(text);
      this.#wake();
    });
    this.closed = new Promise((resolve) => {
      response.on('close', () => {
        this.ended = true;
        this.#wake();
        resolve();
      });
    });
    // A cut connection is what many tests are about.
    response.on('error', () => undefined);
  }

  /** Opens a stream; the answer may have any status. */
  static async open(
    url: string,
    token: string | undefined,
    options: OpenOptions = {},
  ): Promise<StreamClient> {
    const target = new URL('/v1/stream', url);
    for (const [name, value] of Object.entries(options.query ?? {})) target.searchParams.set(name, value);
    const outgoing = request(target, {
      agent: false,
      headers: {
        accept: 'text/event-stream',
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(options.lastEventId === undefined ? {} : { 'last-event-id': options.lastEventId }),
        ...options.headers,
      },
    });
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      outgoing.on('response', resolve).on('error', reject).end();
    });
    outgoing.on('error', () => undefined);
    const client = new StreamClient(response, outgoing);
    if (options.paused === true) response.pause();
    return client;
  }

  get status(): number | undefined {
    return this.response.statusCode;
  }

  /** The notifications so far: events without a name. */
  get notifications(): (NotificationEvent & { position: string })[] {
    return this.events
      .filter(({ event }) => event === undefined)
      .map(({ id, data }) => ({ ...(JSON.parse(data) as NotificationEvent), position: id ?? '' }));
  }

  /** The data of the events with this name. */
  named(name: string): Record<string, unknown>[] {
    return this.events
      .filter(({ event }) => event === name)
      .map(({ data }) => JSON.parse(data) as Record<string, unknown>);
  }

  /** The last event id as the standard defines it: what a reconnect would send. */
  get lastEventId(): string | undefined {
    return this.events.findLast(({ id }) => id !== undefined)?.id;
  }

  /** Waits until `check` gives something, looking again whenever bytes arrive. */
  async until<Found>(check: () => Found | undefined | false, what: string, within = 60_000): Promise<Found> {
    const deadline = performance.now() + within;
    for (;;) {
      const found = check();
      if (found !== undefined && found !== false) return found;
      if (this.ended) throw new Error(`the stream ended before ${what}; it had: ${this.#summary()}`);
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`no ${what} within ${within} ms; the stream had: ${this.#summary()}`);
      await this.#bytes(left);
    }
  }

  async untilEvent(name: string, within?: number): Promise<Record<string, unknown>> {
    return await this.until(() => this.named(name).at(0), `event ${name}`, within);
  }

  async untilNotifications(
    count: number,
    within?: number,
  ): Promise<(NotificationEvent & { position: string })[]> {
    return await this.until(
      // Megabytes of them are not parsed anew with every chunk.
      () =>
        this.events.filter(({ event }) => event === undefined).length >= count
          ? this.notifications
          : undefined,
      `${count} notifications`,
      within,
    );
  }

  pause(): void {
    this.response.pause();
  }

  resume(): void {
    this.response.resume();
  }

  /** Cuts the connection as a lost network would. */
  async cut(): Promise<void> {
    this.outgoing.destroy();
    await this.closed;
  }

  #bytes(within: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, within);
      this.#waiting.add(done);
    });
  }

  #wake(): void {
    for (const done of this.#waiting) done();
  }

  #summary(): string {
    return this.events
      .map(({ event, id }) => `${event ?? 'notification'}${id === undefined ? '' : `@${id}`}`)
      .join(' ')
      .slice(-600);
  }
}
