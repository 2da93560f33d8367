import { request, type ClientRequest, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { post } from '../../support/api.ts';
import { userToken } from '../../support/tokens.ts';
import {
  nameOf,
  numberOf,
  type Books,
  type DeviceBook,
  type InboxNumber,
  type Reading,
  type Shown,
  type Who,
} from './books.ts';
import { HEARTBEAT_SECONDS } from './installation.ts';
import { PASSING, REQUEST_MS, TOKEN_TIMES } from './publishers.ts';
import type { Random } from './random.ts';

/** What a device does by itself, whatever goes wrong around it. */
export interface Habit {
  /** It comes back with its last event id; otherwise with nothing, as a page that was loaded anew. */
  readonly carries: boolean;
  readonly acknowledges: boolean;
  /** At times it says what was seen and read. */
  readonly marks: boolean;
  /** At times it reads nothing for seconds. */
  readonly goesDeaf: boolean;
  /** At times it is gone without a word, and comes back seconds later. */
  readonly vanishes: boolean;
}

/** A stream that is silent for so long is dead to its client, in ms. */
const SILENCE_MS = 4 * HEARTBEAT_SECONDS * 1_000;

/** Where a client has heard no `retry:`, in ms. */
const RETRY_MS = 1_000;

/** One installation of a client, over all of its connections. */
export class Device {
  readonly book: DeviceBook;
  readonly #token: string;
  readonly #stop = new AbortController();
  /** Its habits are off: everybody reads to the end. */
  #settled = false;
  /** It has not come yet, is away, or reads nothing, since it wants to. */
  #absent = true;
  #lastId: string | undefined;
  /** The notification that came last. */
  #latest: string | undefined;
  #retryMs = RETRY_MS;
  #current: { readonly outgoing: ClientRequest; response?: IncomingMessage } | undefined;
  #attempt: number;

  constructor(
    readonly who: Who,
    private readonly habit: Habit,
    private readonly urls: readonly string[],
    private readonly books: Books,
    private readonly random: Random,
  ) {
    this.book = books.open(who);
    this.#token = userToken({ ...who, topics: [...who.topics], claims: TOKEN_TIMES });
    this.#attempt = random.integer(urls.length);
  }

  /** Its client wants to have what there is. */
  get isPresent(): boolean {
    return !this.#absent;
  }

  /** What it shows beside its bell. */
  number = (): InboxNumber | undefined => {
    const reading = this.book.readings.at(-1);
    return reading && numberOf(reading, Date.now());
  };

  /** Until `leave`. */
  async run(): Promise<void> {
    this.#absent = false;
    await Promise.all([
      this.#connectAgainAndAgain(),
      this.#acknowledgeNowAndThen(),
      this.#markNowAndThen(),
      this.#liveByHabit(),
    ]);
  }

  /** From now on it stays, reads, and acknowledges as before. */
  settle(): void {
    this.#settled = true;
    this.#absent = false;
    this.#current?.response?.resume();
  }

  leave(): void {
    this.#stop.abort();
    this.#current?.outgoing.destroy();
  }

  /** Cuts its stream; it comes back. */
  cut(): void {
    this.#current?.outgoing.destroy();
  }

  get #stopped(): boolean {
    return this.#stop.signal.aborted;
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#stop.signal }).catch(() => undefined);
  }

  async #connectAgainAndAgain(): Promise<void> {
    while (!this.#stopped) {
      if (this.#absent) {
        await this.#pause(100);
        continue;
      }
      await this.#connect();
      // Another one may live.
      this.#attempt += 1;
      await this.#pause(this.#retryMs);
    }
  }

  /** Reads one stream to its end, whatever that is. */
  async #connect(): Promise<void> {
    const asked = this.habit.carries ? this.#lastId : undefined;
    const { book } = this;
    const reading: Reading = {
      openedAt: Date.now(),
      from: undefined,
      upTo: 0,
      got: [],
      inbox: undefined,
      counting: [],
    };
    const confirmedUpTo = book.confirmedUpTo;
    if (asked !== undefined) book.triedUpTo = Math.max(book.triedUpTo, Number(asked));
    const url = new URL('/v1/stream?inbox=1', this.urls[this.#attempt % this.urls.length]);
    const outgoing = request(url, {
      agent: false,
      headers: {
        accept: 'text/event-stream',
        authorization: `Bearer ${this.#token}`,
        ...(asked === undefined ? {} : { 'last-event-id': asked }),
      },
    });
    const current: { readonly outgoing: ClientRequest; response?: IncomingMessage } = { outgoing };
    this.#current = current;
    const onEvent = (event: EventSourceMessage): void => {
      if (event.event === 'sync') {
        const { resume, from } = JSON.parse(event.data) as { resume: string; from: string };
        book.readings.push(reading);
        book.began(
          reading,
          resume,
          Number(from),
          asked === undefined ? undefined : Number(asked),
          confirmedUpTo,
        );
      }
      this.#hear(reading, event);
    };
    await new Promise<void>((resolve) => {
      const silence = setTimeout(() => {
        if (current.response?.isPaused() === true) silence.refresh();
        else outgoing.destroy();
      }, SILENCE_MS);
      const parser = createParser({ onEvent, onRetry: (ms) => (this.#retryMs = ms) });
      outgoing.on('response', (response) => {
        current.response = response;
        const { statusCode = 0 } = response;
        if (statusCode !== 200 && !PASSING.has(statusCode))
          this.books.find('strange', `${nameOf(this.who)}: a stream was answered ${statusCode}`);
        response.setEncoding('utf8').on('data', (text: string) => {
          silence.refresh();
          if (statusCode === 200) parser.feed(text);
        });
        // `close` follows.
        response.on('error', () => undefined);
      });
      outgoing.on('error', () => undefined);
      outgoing.on('close', () => {
        clearTimeout(silence);
        resolve();
      });
      outgoing.end();
    });
  }

  #hear(reading: Reading, { event, id, data }: EventSourceMessage): void {
    if (event === 'bye') {
      const bye = JSON.parse(data) as { reason: string; reconnect: boolean };
      if (!bye.reconnect)
        this.books.find('strange', `${nameOf(this.who)}: a stream was ended for good: ${bye.reason}`);
    }
    if (event === 'inbox') reading.inbox = JSON.parse(data) as InboxNumber;
    if (id === undefined) return;
    if (event === undefined) this.#latest = (JSON.parse(data) as Shown).id;
    if (event === undefined) this.book.shown(reading, Number(id), JSON.parse(data) as Shown);
    else this.book.moved(reading, Number(id));
    this.#lastId = id;
  }

  async #acknowledgeNowAndThen(): Promise<void> {
    if (!this.habit.acknowledges) return;
    while (!this.#stopped) {
      await this.#pause(this.random.between(500, 2_500));
      const upTo = this.#lastId;
      if (upTo === undefined || Number(upTo) <= this.book.confirmedUpTo) continue;
      const { book, who } = this;
      book.triedUpTo = Math.max(book.triedUpTo, Number(upTo));
      const url = this.random.one(this.urls);
      const answer = await post(
        `${url}/v1/acks`,
        this.#token,
        { upTo, device: who.device },
        {},
        REQUEST_MS,
      ).catch(() => undefined);
      if (answer?.status === 204) {
        book.confirmedUpTo = Math.max(book.confirmedUpTo, Number(upTo));
        this.books.acknowledged += 1;
      } else if (answer !== undefined && !PASSING.has(answer.status))
        this.books.find(
          'strange',
          `${nameOf(who)}: an acknowledgement up to ${upTo} was answered ${answer.status}: ${JSON.stringify(answer.body).slice(0, 300)}`,
        );
    }
  }

  /** Reads or unreads what came last, or says that all was read, knowing the inbox as it is or as it was a while ago. */
  async #markNowAndThen(): Promise<void> {
    if (!this.habit.marks) return;
    let revision: string | undefined;
    while (!this.#stopped && !this.#settled) {
      await this.#pause(this.random.between(500, 4_000));
      const [upTo, id] = [this.#lastId, this.#latest];
      if (upTo === undefined || id === undefined) continue;
      const marks = this.random.one([
        { items: [{ id, read: true }] },
        { items: [{ id, read: false }] },
        { seenUpTo: upTo },
        { readUpTo: upTo, ...(revision === undefined ? {} : { revision }) },
      ]);
      if (this.random.chance(0.5)) revision = this.book.readings.at(-1)?.inbox?.revision;
      const url = this.random.one(this.urls);
      const answer = await post(`${url}/v1/inbox/marks`, this.#token, marks, {}, REQUEST_MS).catch(
        () => undefined,
      );
      if (answer !== undefined && answer.status !== 200 && !PASSING.has(answer.status))
        this.books.find(
          'strange',
          `${nameOf(this.who)}: marks were answered ${answer.status}: ${JSON.stringify(answer.body).slice(0, 300)}`,
        );
    }
  }

  async #liveByHabit(): Promise<void> {
    const { goesDeaf, vanishes } = this.habit;
    if (!goesDeaf && !vanishes) return;
    while (!this.#stopped && !this.#settled) {
      await this.#pause(this.random.between(1_000, 20_000));
      if (this.#settled) return;
      this.#absent = true;
      const response = this.#current?.response;
      if (vanishes) this.#current?.outgoing.destroy();
      else response?.pause();
      await this.#pause(this.random.between(500, 8_000));
      this.#absent = false;
      response?.resume();
    }
  }
}
