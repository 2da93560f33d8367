import { setTimeout as sleep } from 'node:timers/promises';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { eventually } from '../../../test/support/eventually.ts';
import type { Publication } from '../src/testing.ts';

export interface TokenOptions {
  readonly user: string;
  readonly topics?: readonly string[];
  readonly device?: string;
  readonly lifetimeSeconds?: number;
}

/** Where a script is played. */
export interface Stage {
  readonly url: string;
  readonly fetch: typeof globalThis.fetch;
  token(options: TokenOptions): string;
  publish(publication: Publication): Promise<{ id: string; position: string }>;
  retain(upTo: string): Promise<void>;
  revoke(token: string): Promise<void>;
}

/** For what never comes, so that it is told which one that was. */
const NEVER_MS = 60_000;

const ID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi;
const POSITION = /\b[1-9]\d{14,15}\b/g;
const TIME = /"\d{4}-\d\d-\d\dT[\d:.]+Z"/g;

/** The machine was too busy for what has to happen in time. */
export class TooLate extends Error {
  override readonly name = 'TooLate';
}

/** Plays requests, and writes down what is answered, with names in place of ids, positions and times. */
export class Script {
  readonly #stage: Stage;
  readonly #lines: string[] = [];
  readonly #streams: ScriptStream[] = [];
  readonly #names = new Map<string, string>();
  readonly #times = new Map<string, string>();

  /** @param patience how many seconds it leaves the machine where something has to happen in time */
  constructor(
    stage: Stage,
    readonly patience: number,
  ) {
    this.#stage = stage;
  }

  /**
   * Does what has to be done before its time is up.
   * @throws TooLate when it was up by the end, whatever came of it
   */
  async inTime<Done>(act: () => Promise<Done>): Promise<Done> {
    const deadline = performance.now() + this.patience * 1_000;
    try {
      return await act();
    } finally {
      // oxlint-disable-next-line no-unsafe-finally -- what it threw was thrown too late
      if (performance.now() >= deadline) throw new TooLate();
    }
  }

  token(options: TokenOptions): string {
    return this.#stage.token(options);
  }

  /** A time that both know by this name, `ms` from now. */
  later(name: string, ms: number): string {
    const time = new Date(Date.now() + ms).toISOString();
    this.#times.set(time, name);
    return time;
  }

  async publish(publication: Publication): Promise<{ id: string; position: string }> {
    await nextMillisecond();
    const { id, position } = await this.#stage.publish(publication);
    this.#note('published', { id, position });
    return { id, position };
  }

  async retain(upTo: string): Promise<void> {
    await this.#stage.retain(upTo);
  }

  async revoke(token: string): Promise<void> {
    await this.#stage.revoke(token);
  }

  /** @returns the body of the answer */
  async ask(
    method: string,
    path: string,
    token?: string,
    body?: unknown,
    headers: Record<string, string> = { 'content-type': 'application/json' },
  ): Promise<Record<string, unknown>> {
    await nextMillisecond();
    const over = new AbortController();
    const response = await this.#stage.fetch(`${this.#stage.url}${path}`, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : headers),
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      signal: over.signal,
    });
    const isStream = response.headers.get('content-type') === 'text/event-stream';
    const text = isStream ? '' : await response.text();
    if (isStream) over.abort();
    const answer: Record<string, unknown> = text === '' ? {} : JSON.parse(text);
    this.#note(`${method} ${path.split('?')[0]} ${response.status}`, toldOf(response), withoutWords(answer));
    return answer;
  }

  /** Every page of a list. */
  async pages(path: string, token: string): Promise<void> {
    for (let cursor = ''; ;) {
      const next = cursor === '' ? '' : `${path.includes('?') ? '&' : '?'}cursor=${cursor}`;
      const { nextCursor } = await this.ask('GET', `${path}${next}`, token);
      if (typeof nextCursor !== 'string') return;
      cursor = nextCursor;
    }
  }

  /** Opens a stream and waits until it is caught up. */
  async open(
    name: string,
    token: string | undefined,
    query: Record<string, string> = {},
    headers: Record<string, string> = {},
  ): Promise<ScriptStream> {
    await nextMillisecond();
    const over = new AbortController();
    const response = await this.#stage.fetch(`${this.#stage.url}/v1/stream?${new URLSearchParams(query)}`, {
      headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...headers },
      signal: over.signal,
    });
    this.#note(`stream ${name} ${response.status}`, toldOf(response));
    const stream = new ScriptStream(name, response, over);
    this.#streams.push(stream);
    await stream.events('caught-up', 1);
    return stream;
  }

  /**
   * What a user with two devices does and gets, by chance: of the same seed the same.
   * @param acts how many
   */
  async live(seed: number, acts: number): Promise<void> {
    let state = seed * 7_919;
    const draw = (below: number): number => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      return Math.floor((state / 2_147_483_648) * below);
    };
    const tokens = [
      this.token({ user: 'alice', topics: ['a', 'b'] }),
      this.token({ user: 'alice', topics: ['b'] }),
    ];
    const tokenOf = (): string => tokens[draw(2)] ?? '';
    const stored: { id: string; position: string }[] = [];
    const some = () => stored[draw(stored.length)];
    const revisions: string[] = [];
    const maybe = <Value>(chance: number, value: () => Value): Value | undefined =>
      draw(100) < chance ? value() : undefined;
    const open = async () => {
      const stream = await this.open('of alice', tokens[0], { inbox: '1', device: 'laptop' });
      await stream.inboxes(1);
      return stream;
    };
    let stream = await open();
    for (let act = 0; act < acts; act += 1) {
      const kind = stored.length === 0 ? 0 : draw(10);
      if (kind < 4) {
        const recipients = [
          { user: 'alice' },
          { everyone: true },
          { topic: 'a' },
          { topic: 'b' },
          { user: 'bob' },
        ] as const;
        const expiresAt = maybe(20, () => this.later(`later ${act}`, 3_600_000 + draw(1_000) * 1_000));
        stored.push(
          await this.publish({
            to: recipients[draw(recipients.length)] ?? { everyone: true },
            type: `t${draw(3)}`,
            data: act,
            ...(expiresAt === undefined ? {} : { expiresAt }),
            ...(draw(8) === 0 ? { inbox: false } : {}),
          }),
        );
      } else if (kind < 8) {
        const ids = [...new Set(Array.from({ length: draw(4) }, () => some()?.id))];
        const body = {
          seenUpTo: maybe(20, () => some()?.position),
          readUpTo: maybe(20, () => some()?.position),
          archivedUpTo: maybe(10, () => some()?.position),
          items: ids.map((id) => {
            const [read, archived] = [maybe(60, () => draw(2) === 0), maybe(40, () => draw(2) === 0)];
            return {
              id,
              ...(read === undefined && archived === undefined ? { read: true } : { read, archived }),
            };
          }),
          revision: maybe(40, () => revisions[draw(revisions.length)]),
        };
        const { revision } = await this.ask('POST', '/v1/inbox/marks', tokenOf(), body);
        revisions.push(String(revision));
        await stream.toldOf(String(revision));
      } else if (kind === 8) {
        const filter = ['all', 'unread', 'unseen', 'archived'][draw(4)] ?? 'all';
        await this.pages(`/v1/inbox?filter=${filter}&limit=${1 + draw(9)}`, tokenOf());
      } else if (draw(3) === 0) {
        stream.cut();
        stream = await open();
      } else await this.ask('POST', '/v1/acks', tokens[0], { upTo: some()?.position, device: 'laptop' });
    }
    for (const token of tokens) await this.pages('/v1/inbox', token);
  }

  cutAll(): void {
    for (const stream of this.#streams) stream.cut();
  }

  /** All that was said: first the answers, then each stream. */
  transcript(): string[] {
    return [...this.#lines, ...this.#streams.flatMap((stream) => stream.lines)].map((line) =>
      this.#named(line),
    );
  }

  #note(what: string, ...values: unknown[]): void {
    this.#lines.push([what, ...values.map((value) => JSON.stringify(value))].join(' '));
  }

  /** Ids and positions by when they were first seen: what is equal on one side has to be so on the other. */
  #named(line: string): string {
    const nameIn = (kind: string) => (found: string) => {
      const key = found.toLowerCase();
      const name = this.#names.get(key) ?? `<${kind} ${this.#names.size}>`;
      this.#names.set(key, name);
      return name;
    };
    return line
      .replace(/"(nextCursor|ticket)":"[^"]+"/g, '"$1":"…"')
      .replace(ID, nameIn('id'))
      .replace(POSITION, nameIn('position'))
      .replace(TIME, (time) => `<${this.#times.get(time.slice(1, -1)) ?? 'time'}>`)
      .replace(/retry: \d+/g, 'retry: …')
      .replace(/"retryAfterMs":\d+/g, '"retryAfterMs":…');
  }
}

/** A stream of a script, and what has come of it so far. */
export class ScriptStream {
  readonly #name: string;
  readonly #events: EventSourceMessage[] = [];
  readonly #over: AbortController;
  readonly #reading: Promise<void>;
  #comments = 0;
  #text = '';
  #ended = false;
  /** Something has come, or nothing will any more. */
  #more = Promise.withResolvers<void>();

  constructor(name: string, response: Response, over: AbortController) {
    this.#name = name;
    this.#over = over;
    this.#reading = this.#read(response);
  }

  get lastId(): string {
    return this.#events.findLast(({ id }) => id !== undefined)?.id ?? '';
  }

  get connectionId(): string {
    return String(this.#dataOf('sync')[0]?.['connectionId']);
  }

  /** Everything but heartbeats, which have their own time. */
  get lines(): string[] {
    const isBeat = (frame: string): boolean => frame === ':' || frame.startsWith('event: position\n');
    const frames = this.#text.split('\n\n');
    return frames
      .filter((frame) => !isBeat(frame))
      .map((frame) => `${this.#name}: ${withSortedChanges(frame)}`);
  }

  async notifications(count: number): Promise<void> {
    await this.#until(
      () => this.#events.filter(({ event }) => event === undefined).length >= count,
      'notifications',
    );
  }

  async inboxes(count: number): Promise<void> {
    await this.events('inbox', count);
  }

  async events(name: string, count: number): Promise<void> {
    await this.#until(() => this.#dataOf(name).length >= count, `${count} of ${name}`);
  }

  async comments(count: number): Promise<void> {
    await this.#until(() => this.#comments >= count, 'comments');
  }

  /** The inbox of this revision. */
  async toldOf(revision: string): Promise<void> {
    await this.#until(() => Number(this.#dataOf('inbox').at(-1)?.['revision']) >= Number(revision), revision);
  }

  async end(): Promise<void> {
    await this.#reading;
  }

  cut(): void {
    this.#over.abort();
  }

  #dataOf(name: string): Record<string, unknown>[] {
    return this.#events.filter(({ event }) => event === name).map(({ data }) => JSON.parse(data));
  }

  async #until(isSo: () => boolean, what: string): Promise<void> {
    const deadline = performance.now() + NEVER_MS;
    while (!isSo()) {
      if (this.#ended || performance.now() >= deadline)
        throw new Error(`${this.#name} has no ${what}: ${this.#text.slice(-2_000)}`);
      await Promise.race([this.#more.promise, sleep(1_000)]);
    }
  }

  async #read(response: Response): Promise<void> {
    const parser = createParser({
      onEvent: (event) => this.#events.push(event),
      onComment: () => {
        this.#comments += 1;
      },
    });
    const decoder = new TextDecoder();
    try {
      for await (const chunk of response.body ?? []) {
        const text = decoder.decode(chunk, { stream: true });
        this.#text += text;
        parser.feed(text);
        this.#wake();
      }
      this.#text += '<end>';
    } catch (error) {
      if (!this.#over.signal.aborted) this.#text += `<${String(error)}>`;
    }
    this.#ended = true;
    this.#wake();
  }

  #wake(): void {
    this.#more.resolve();
    this.#more = Promise.withResolvers<void>();
  }
}

/** What was said in one call has no order. */
function withSortedChanges(frame: string): string {
  return frame.replace(/"changes":(\[.*?\])/, (_, changes: string) => {
    const list: { id: string }[] = JSON.parse(changes);
    return `"changes":${JSON.stringify(list.toSorted((a, b) => (a.id < b.id ? -1 : 1)))}`;
  });
}

const HEADERS = [
  'content-type',
  'cache-control',
  'x-accel-buffering',
  'www-authenticate',
  'allow',
  'retry-after',
];

/** How long an error may be kept depends on who has found it, and says nothing. */
const toldOf = ({ ok, headers }: Response) => ({
  ...Object.fromEntries(
    [...headers].filter(([name]) => HEADERS.includes(name) && (ok || name !== 'cache-control')),
  ),
  ...(headers.has('x-request-id') ? {} : { hasNoRequestId: true }),
});

/** Where something is wrong has to be the same, not how that is said. */
function withoutWords(answer: Record<string, unknown>): Record<string, unknown> {
  if (!Array.isArray(answer['errors'])) return answer;
  const errors: { pointer: string }[] = answer['errors'];
  return { ...answer, errors: errors.map(({ pointer }) => pointer).toSorted() };
}

/** Positions and revisions are made of milliseconds: what happens in one of its own has none of another. */
async function nextMillisecond(): Promise<void> {
  const before = Date.now();
  await eventually(
    () => {
      if (Date.now() < before + 2) throw new Error('The time stands still.');
    },
    { every: 1 },
  );
}
