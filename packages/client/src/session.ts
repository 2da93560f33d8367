import type { Acknowledgements } from './acknowledgements.ts';
import { ServiceError, SignedOut, postOf, type Caller } from './call.ts';
import { readStream, type StreamEvent } from './stream.ts';
import type { Surroundings } from './surroundings.ts';
import type { Bye } from './wire.ts';

export type Status =
  | 'idle'
  | 'connecting'
  | 'catching-up'
  | 'live'
  /** Nothing could be reached; it is tried again. */
  | 'offline'
  /** The app has no token any more, or the service takes none of them. */
  | 'signed-out'
  /** The user has opened more streams than the limit, and newer ones are kept. `start` comes back. */
  | 'replaced'
  /** Too many streams or devices: the inbox is asked for until there is room. */
  | 'limited';

/** Whom a session tells. */
export interface SessionHost {
  /** Where the next stream begins; empty: where the device is. */
  readonly position: () => string;
  readonly status: (status: Status, reason?: string) => void;
  readonly take: (event: StreamEvent) => void;
  /** The stream has another token than before: its topics may be others. */
  readonly otherToken: () => void;
  readonly closed: () => void;
  readonly report: (error: unknown) => void;
}

const LONGEST_WAIT_MS = 30_000;
/** What the service refuses for good is asked again all the same: somebody may mend it. */
const REFUSED_WAIT_MS = 300_000;
/** Until the first byte: the service sends it before anything else. */
const OPENING_MS = 15_000;
const TICK_MS = 1_000;
/** Ticks that are further apart say that the page was asleep. */
const JUMP_MS = 3_000;
/** How late a heartbeat may be. */
const LATE_MS = 2_000;

interface OpenStream {
  readonly over: AbortController;
  connectionId: string;
  heardAt: number;
  heartbeatMs: number;
  silenceMs: number;
  bye: Bye | undefined;
  /** The page has woken up beside it: the next is opened at once. */
  isLeft: boolean;
}

/** Keeps one stream open until it is told to stop or the service says that there is no coming back. */
export class Session {
  #stream: OpenStream | undefined;
  #token: string | undefined;
  #failures = 0;
  #isLimited = false;
  #isOver = false;
  #endPause: (() => void) | undefined;
  #stopTicks: (() => void) | undefined;

  constructor(
    private readonly caller: Caller,
    private readonly surroundings: Surroundings,
    private readonly options: { readonly device: string; readonly transport: 'fetch' | 'event-source' },
    private readonly acknowledgements: Acknowledgements,
    private readonly host: SessionHost,
  ) {}

  /** That of the stream that is open or was last. */
  get token(): string | undefined {
    return this.#token;
  }

  /** Returns when it is over. */
  async run(): Promise<void> {
    this.#tick(this.surroundings.clock.now());
    while (!this.#isOver) {
      const ms = await this.#once();
      if (!this.#isOver) await this.#pause(ms);
    }
    this.#stopTicks?.();
  }

  stop(): void {
    this.#isOver = true;
    this.#endPause?.();
    this.#stream?.over.abort();
  }

  /** What is open may be dead, and the rest of a long wait is of no use. `isNewNetwork`: it is dead. */
  wake(isNewNetwork: boolean): void {
    this.#failures = 0;
    this.#endPause?.();
    const stream = this.#stream;
    if (stream === undefined || !(isNewNetwork || this.#silence(stream) > stream.heartbeatMs + LATE_MS))
      return;
    stream.isLeft = true;
    stream.over.abort();
  }

  #silence({ heardAt }: OpenStream): number {
    return this.surroundings.clock.now() - heardAt;
  }

  /** A proxy may have gone silent without an end, and a clock that jumped is that of a laptop which slept. */
  #tick(before: number): void {
    const { clock } = this.surroundings;
    this.#stopTicks = clock.after(TICK_MS, () => {
      const now = clock.now();
      if (now - before > JUMP_MS) this.wake(false);
      if (this.#stream !== undefined && this.#silence(this.#stream) >= this.#stream.silenceMs)
        this.#stream.over.abort();
      this.#tick(now);
    });
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const callOff = this.surroundings.clock.after(ms, () => this.#endPause?.());
      this.#endPause = () => {
        this.#endPause = undefined;
        callOff();
        resolve();
      };
    });
  }

  /** Full jitter: what a node that stops has had open does not come back at one moment. */
  #backOff(): number {
    return Math.min(LONGEST_WAIT_MS, 1_000 * 2 ** this.#failures++) * this.surroundings.random();
  }

  /** Reads one stream to its end. Returns how long to wait before the next, in ms. */
  async #once(): Promise<number> {
    const { caller, surroundings, host } = this;
    const { clock } = surroundings;
    const stream: OpenStream = {
      over: new AbortController(),
      connectionId: '',
      heardAt: clock.now(),
      heartbeatMs: OPENING_MS,
      silenceMs: OPENING_MS,
      bye: undefined,
      isLeft: false,
    };
    this.#stream = stream;
    if (!this.#isLimited) host.status(this.#failures === 0 ? 'connecting' : 'offline');
    try {
      await readStream({
        caller,
        ...this.options,
        lastEventId: host.position(),
        signal: stream.over.signal,
        opened: (token) => this.#has(token),
        heard: () => (stream.heardAt = clock.now()),
        take: (event) => this.#take(event, stream),
      });
    } catch (error) {
      if (!stream.over.signal.aborted) return this.#refused(error);
    } finally {
      stream.over.abort();
      this.#stream = undefined;
      if (stream.connectionId !== '') host.closed();
    }
    if (stream.bye !== undefined) return this.#ended(stream.bye);
    return stream.isLeft ? 0 : this.#backOff();
  }

  #has(token: string | undefined): void {
    if (token !== this.#token) this.host.otherToken();
    this.#token = token;
  }

  #take(event: StreamEvent, stream: OpenStream): void {
    if (event.name === 'sync') {
      const { connectionId, heartbeatSeconds } = event.data;
      stream.connectionId = connectionId;
      stream.heartbeatMs = heartbeatSeconds * 1_000;
      // `EventSource` shows no heartbeats.
      stream.silenceMs = this.options.transport === 'fetch' ? 3 * stream.heartbeatMs : Infinity;
      this.#isLimited = false;
      this.host.status('catching-up');
    } else if (event.name === 'caught-up') {
      this.#failures = 0;
      this.host.status('live');
    } else if (event.name === 'bye') {
      // Nothing comes after it.
      stream.bye = event.data;
      stream.over.abort();
    } else if (event.name === 'expiring') void this.#renew(stream, Date.parse(event.data.at));
    this.host.take(event);
  }

  #refused(error: unknown): number {
    if (error instanceof SignedOut) return this.#over('signed-out', error.reason);
    if (!(error instanceof ServiceError)) {
      // Without a network `fetch` says no more than this.
      if (!(error instanceof TypeError)) this.host.report(error);
      return this.#backOff();
    }
    if (error.passes) return Math.max(this.#backOff(), error.retryAfterMs ?? 0);
    if (error.status === 403) return this.#over('signed-out', error.code);
    this.host.report(error);
    this.#failures += 1;
    this.host.status('offline');
    return REFUSED_WAIT_MS;
  }

  #ended({ reason, retryAfterMs, reconnect }: Bye): number {
    if (!reconnect) return this.#over(reason === 'replaced' ? 'replaced' : 'signed-out', reason);
    if (reason === 'token-expired') this.caller.forget();
    if (reason === 'over-limit') {
      this.#isLimited = true;
      this.host.status('limited');
    }
    return retryAfterMs;
  }

  #over(status: Status, reason: string): number {
    this.#isOver = true;
    this.host.status(status, reason);
    return 0;
  }

  /** In place, without a cut. If that fails a new stream takes its place, with the new token. */
  async #renew(stream: OpenStream, endsAt: number): Promise<void> {
    const { clock, random } = this.surroundings;
    const ms = Math.max(0, endsAt - clock.now()) * random() * 0.5;
    await new Promise<void>((resolve) => clock.after(ms, resolve));
    if (stream.over.signal.aborted) return;
    try {
      // What was handled was addressed to the device by the topics of the old token.
      await this.acknowledgements.flush();
      const token = await this.caller.refresh();
      if (stream.over.signal.aborted) return;
      if (token !== undefined) {
        const { connectionId } = stream;
        await this.caller.request('/v1/stream/renewals', postOf({ connectionId, token }));
        this.#has(token);
        return;
      }
    } catch (error) {
      if (error instanceof SignedOut) this.#over('signed-out', error.reason);
      else if (!(error instanceof ServiceError)) {
        // No answer: this stream goes on until its token ends, and the next asks again.
        if (!(error instanceof TypeError)) this.host.report(error);
        return;
      }
    }
    stream.over.abort();
  }
}
