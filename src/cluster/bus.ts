import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, Logger, Module, type OnApplicationShutdown } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { z } from 'zod';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { tenantIdSchema, type TenantId } from '../core/identifiers.ts';
import { asPosition, type Position } from '../core/position.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { NatsTransport, PostgresTransport, type BusTransport } from './bus-transports.ts';

/** Up to where the log of a tenant reaches, as another node says. */
export interface Hint {
  readonly tenantId: TenantId;
  readonly head: Position;
}

/** `alone`: no other node lives, so there is nothing to say and nobody to hear. */
export type BusState = 'alone' | 'connected' | 'degraded';

/** In bytes. PostgreSQL takes payloads of less than 8,000. */
const MOST_BYTES = 7_900;

/** Pause before it is connected anew, in ms. */
const AGAIN_MS = 1_000;

/**
 * As it travels: who says it, up to where the logs reach, whether something changed that the change feed reads, and whose
 * inboxes changed, each by a hash. Whoever has a login to what passes it on may say anything, so what comes is checked.
 */
const messageSchema = z.strictObject({
  from: z.uuid(),
  heads: z.array(z.tuple([tenantIdSchema, z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)])),
  changes: z.literal(true).optional(),
  inboxes: z.array(z.string().regex(/^[\w-]{22}$/)).optional(),
});
type Message = z.infer<typeof messageSchema>;

/** What a message has beside its heads takes less, in bytes. */
const ENVELOPE_BYTES = 100;
/** As many keys of inboxes, each with quotes and a comma, as fit into one message. */
const MOST_INBOXES = Math.floor((MOST_BYTES - ENVELOPE_BYTES) / 25);

/**
 * By which nodes tell one another at once what they would find out by the poll of the log and by the change feed: that a log
 * has grown, that something changed. A message that is lost, late, doubled or out of order costs time and nothing else.
 *
 * It takes PostgreSQL's LISTEN and NOTIFY, or NATS, and nothing as long as no other node lives.
 */
@Injectable()
export class Bus implements OnApplicationShutdown {
  readonly #logger = new Logger(Bus.name);
  readonly #heads = new Subject<Hint>();
  readonly #changes = new Subject<void>();
  readonly #inboxes = new Subject<string>();
  readonly #resumed = new Subject<void>();
  /** This process. What it says comes back to it. */
  readonly #self = randomUUID();
  readonly #waiting = new Map<TenantId, Position>();
  #changed = false;
  readonly #changedInboxes = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;
  #pauseUntil = 0;
  #transport: BusTransport | undefined;
  readonly #stop = new AbortController();
  #listening: Promise<void> | undefined;
  #alone = true;
  #hears = false;
  /** What was said last came through. */
  #tells = true;
  #troubled = false;

  /** What other nodes have stored. */
  readonly heads: Observable<Hint> = this.#heads.asObservable();
  /** Another node committed something that the change feed reads. */
  readonly changes: Observable<void> = this.#changes.asObservable();
  /** Another node committed something that a user said of an inbox; see `announceInboxes`. */
  readonly inboxes: Observable<string> = this.#inboxes.asObservable();
  /** It hears from now on: what was said before has to be asked for. */
  readonly resumed: Observable<void> = this.#resumed.asObservable();

  constructor(
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  get state(): BusState {
    if (this.#alone) return 'alone';
    return this.#hears && this.#tells ? 'connected' : 'degraded';
  }

  /** Told by the poll: whether any other node lives. The first that does has this one listen from then on. */
  others(live: boolean): void {
    if (this.#stop.signal.aborted) return;
    this.#alone = !live;
    if (live && this.#transport === undefined) {
      this.#transport = this.#open();
      this.#listening = this.#listen(this.#transport);
    }
    this.#show();
  }

  /** This node stored something. */
  announce(tenantId: TenantId, head: Position): void {
    if (this.#alone) return;
    this.#waiting.set(tenantId, head);
    this.#schedule();
  }

  /** This node committed something that the change feed of the others reads. */
  announceChange(): void {
    if (this.#alone) return;
    this.#changed = true;
    this.#schedule();
  }

  /** This node committed what users said of their inboxes. `keys`: a hash of each user, of 22 letters of base64url. */
  announceInboxes(keys: readonly string[]): void {
    if (this.#alone) return;
    for (const key of keys) this.#changedInboxes.add(key);
    this.#schedule();
  }

  async onApplicationShutdown(): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#timer);
    await Promise.all([this.#sending, this.#listening]);
    await this.#transport?.close();
  }

  #open(): BusTransport {
    const { NATS_URL, NODE_NAME } = this.config;
    if (NATS_URL.length > 0) return new NatsTransport(NATS_URL, NODE_NAME);
    return new PostgresTransport(this.config, (share) => this.metrics.busQueueUsage.set(share));
  }

  async #listen(transport: BusTransport): Promise<void> {
    const { signal } = this.#stop;
    const connected = () => {
      this.#hears = true;
      this.#tells = true;
      this.#show();
      this.#resumed.next();
    };
    while (!signal.aborted) {
      const hear = (payload: string) => this.#hear(payload);
      const reason = await transport.listen(hear, connected, signal).catch((error: unknown) => error);
      if (signal.aborted) return;
      this.#hears = false;
      this.#show(reason);
      await sleep(AGAIN_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  #hear(payload: string): void {
    const message = read(payload);
    if (message === undefined) return this.metrics.busMessages.inc({ direction: 'refused' });
    const { from, heads, changes, inboxes = [] } = message;
    if (from === this.#self) return;
    this.metrics.busMessages.inc({ direction: 'received' });
    for (const [tenantId, head] of heads) this.#heads.next({ tenantId, head: asPosition(head) });
    if (changes === true) this.#changes.next();
    for (const key of inboxes) this.#inboxes.next(key);
  }

  /** The first is said at once; what comes while that is under way, and in the pause behind it, goes together. */
  #schedule(): void {
    if (this.#timer !== undefined || this.#sending !== undefined || this.#stop.signal.aborted) return;
    const wait = this.#pauseUntil - performance.now();
    if (wait <= 0) return this.#send();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#send();
    }, wait);
  }

  #send(): void {
    this.#sending = this.#tell(this.#take()).finally(() => {
      this.#sending = undefined;
      if (this.#waiting.size > 0 || this.#changed || this.#changedInboxes.size > 0) this.#schedule();
    });
  }

  async #tell(messages: readonly string[]): Promise<void> {
    const began = performance.now();
    try {
      await this.#transport?.send(messages);
      this.metrics.busMessages.inc({ direction: 'sent' }, messages.length);
      this.#tells = true;
      this.#show();
    } catch (error) {
      this.#tells = false;
      this.#show(error);
    }
    const now = performance.now();
    this.#pauseUntil = now + (this.#transport?.pauseAfter(now - began) ?? 0);
  }

  /** What waits, in as few messages as it fits into. */
  #take(): string[] {
    const changes = this.#changed ? ({ changes: true } as const) : {};
    const messages: Message[] = [];
    if (this.#waiting.size > 0 || this.#changed) messages.push({ from: this.#self, heads: [], ...changes });
    let bytes = ENVELOPE_BYTES;
    for (const head of this.#waiting) {
      const size = Buffer.byteLength(JSON.stringify(head)) + 1;
      if (bytes + size > MOST_BYTES) {
        messages.push({ from: this.#self, heads: [] });
        bytes = ENVELOPE_BYTES;
      }
      messages.at(-1)?.heads.push(head);
      bytes += size;
    }
    // By themselves: a node of the version before knows nothing of them, and refuses the message that they are in.
    const keys = [...this.#changedInboxes];
    for (let from = 0; from < keys.length; from += MOST_INBOXES)
      messages.push({ from: this.#self, heads: [], inboxes: keys.slice(from, from + MOST_INBOXES) });
    this.#waiting.clear();
    this.#changed = false;
    this.#changedInboxes.clear();
    return messages.map((message) => JSON.stringify(message));
  }

  /** Tells metrics, and the operator once. */
  #show(reason?: unknown): void {
    const { state } = this;
    this.metrics.busConnected.set(state === 'degraded' ? 0 : 1);
    if (state === 'degraded' && !this.#troubled && reason !== undefined) {
      this.#troubled = true;
      this.#logger.warn(`other nodes are heard by polling only, which takes longer: ${messageOf(reason)}`);
    }
    if (state === 'connected' && this.#troubled) {
      this.#troubled = false;
      this.#logger.log('other nodes are heard at once again');
    }
  }
}

function read(payload: string): Message | undefined {
  try {
    return messageSchema.parse(JSON.parse(payload));
  } catch {
    return undefined;
  }
}

@Module({ providers: [Bus], exports: [Bus] })
export class BusModule {}
