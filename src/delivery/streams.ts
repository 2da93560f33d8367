import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { TokenStatus } from '../auth/token-status.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { messageOf } from '../core/errors.ts';
import { Draining } from '../core/draining.ts';
import type { TenantId } from '../core/identifiers.ts';
import { InFlight } from '../concurrency/in-flight.ts';
import { TenantUnknown, type Registered, type StartFrom } from '../receipts/devices.store.ts';
import { Receipts } from '../receipts/receipts.ts';
import { NodeName } from '../cluster/node-name.ts';
import { Ingest } from '../log/ingest.ts';
import type { Position } from '../core/position.ts';
import { ReadStore } from '../log/read.store.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { TimeSlicer } from '../concurrency/time-slicer.ts';
import { DeviceRegistrations } from './device-registrations.ts';
import { Backlog } from './backlog.ts';
import { ConnectionQuota } from './connection-quota.ts';
import { Connection } from './connection.ts';
import { byeFrame, jittered, SLOW_RETRY_MS, syncFrame, type ByeReason } from './frames.ts';
import { Hubs } from './hubs.ts';
import { Eviction } from './eviction.ts';
import type { StreamSocket } from './socket.ts';
import { DeliveryCounts, type EndReason, type StreamNode, type Subscriber } from './stream-node.ts';
import type { Tail } from './tail.ts';
import { TenantHub } from './tenant-hub.ts';

/** A client that asks for its stream: who it is by its token, and what it wants. */
export interface StreamRequest extends Omit<Subscriber, 'connectionId' | 'openedAt'> {
  readonly from: StartFrom;
  readonly resume: Position | undefined;
  readonly malformed: boolean;
}

/** Heartbeats, ends of tokens and dead sockets are looked after this often, by one timer for all. */
const TICK_MS = 1_000;

/** For how long a look may give way to other work, in ms: a stream that is looked at later than that outlives its token. */
const TICK_STRETCH_MS = 250;

/** How many rows a tail reads at once to close a hole; a larger hole is left to the connections. */
const HOLE_ROWS = 5_000;

/** Every open stream of this node: opens and ends them, feeds them from the log, and looks after them once a second. */
@Injectable()
export class Streams implements StreamNode, OnModuleInit, OnModuleDestroy {
  readonly counts = new DeliveryCounts();
  readonly #logger = new Logger(Streams.name);
  readonly #opening = new InFlight<TenantId>();
  #tailWeight = 0;
  #timers: NodeJS.Timeout[] = [];
  #committed: Subscription | undefined;
  #ticking = false;
  #polling = false;
  #databaseAway = false;

  constructor(
    readonly receipts: Receipts,
    readonly backlog: Backlog,
    readonly metrics: Metrics,
    readonly clock: DatabaseClock,
    private readonly arrivals: DeviceRegistrations,
    private readonly ingest: Ingest,
    private readonly reads: ReadStore,
    private readonly nodeName: NodeName,
    private readonly draining: Draining,
    private readonly admission: TokenStatus,
    private readonly hubs: Hubs,
    private readonly capacity: ConnectionQuota,
    private readonly replacements: Eviction,
    @Inject(CONFIG) readonly config: Config,
  ) {}

  async onModuleInit(): Promise<void> {
    this.#committed = this.ingest.committed.subscribe((batch) => this.hubs.get(batch.tenantId)?.offer(batch));
    this.#timers = [
      setInterval(() => void this.#tick(), TICK_MS),
      setInterval(() => void this.poll(), this.config.LOG_POLL_MS),
    ];
    await this.poll();
  }

  /**
   * Serves a stream on a socket that was taken from HTTP and greeted. What is in the way and will pass (a limit,
   * shutdown, the database) is said with `bye`: a status other than 200 would make an EventSource give up for ever.
   */
  async open(request: StreamRequest, stream: StreamSocket): Promise<void> {
    await this.#opening.track(request.tenantId, this.#admit(request, stream));
  }

  /** Waits until the streams of a tenant that are being opened now are open or refused. */
  async opened(tenantId: TenantId): Promise<void> {
    await this.#opening.settled(tenantId);
  }

  async #admit(request: StreamRequest, stream: StreamSocket): Promise<void> {
    if (this.draining.active) return this.#refuse(stream, 'shutdown');
    if (!this.capacity.take(request.tenantId)) return this.#refuse(stream, 'over-limit');
    let begun = false;
    try {
      const arrived = await this.arrivals.register(request.tenantId, request);
      if (stream.socket.destroyed) return;
      if (this.draining.active) return this.#refuse(stream, 'shutdown');
      if (arrived === 'being-erased') return this.#refuse(stream, 'unavailable');
      // The database may have taken longer than the token had left.
      if (request.tokenExpiresAt - Date.now() <= TICK_MS) return this.#refuse(stream, 'token-expired');
      // Nor was anyone told of a stream that was not open yet.
      if (this.admission.refusal(request.caller) !== undefined) return this.#refuse(stream, 'revoked');
      if (arrived === 'too-many-devices') {
        this.metrics.overLimit.inc({ limit: 'devicesPerUser' });
        return this.#refuse(stream, 'over-limit', SLOW_RETRY_MS);
      }
      this.#begin(request, arrived, stream);
      begun = true;
    } catch (error) {
      // Its tenant was deleted, of which this node has not heard yet.
      if (error instanceof TenantUnknown) return this.#refuse(stream, 'revoked');
      this.databaseTrouble(error);
      this.#refuse(stream, 'unavailable');
    } finally {
      if (!begun) this.capacity.leave(request.tenantId);
    }
  }

  readAfter(tenantId: TenantId, position: Position) {
    return this.reads.allAfter(tenantId, position, {
      rows: HOLE_ROWS,
      bytes: this.config.TAIL_BYTES_PER_TENANT,
    });
  }

  trim(tail: Tail): void {
    tail.trim(this.config.TAIL_BYTES_PER_TENANT);
    // The sum is taken once a second; between two ticks the tenant that grows pays for what it adds.
    if (this.#tailWeight > this.config.TAIL_BYTES) tail.trim(this.config.TAIL_BYTES_PER_TENANT / 8);
  }

  databaseTrouble(error: unknown): void {
    if (!this.#databaseAway) this.#logger.warn(`the log cannot be read, streams wait: ${messageOf(error)}`);
    this.#databaseAway = true;
  }

  changed(before: Subscriber, after: Subscriber, now: number, position: Position): void {
    this.receipts.ended(before, now, position, 'renewed');
    this.receipts.opened(after, now, position);
  }

  closed(subscriber: Subscriber, position: Position, reason: EndReason, recorded: boolean): void {
    if (recorded) this.receipts.ended(subscriber, this.clock.now(), position, reason);
    this.metrics.streamsEnded.inc({ reason });
    const hub = this.hubs.get(subscriber.tenantId);
    if (hub?.connections.size === 0) this.hubs.delete(subscriber.tenantId);
    this.capacity.leave(subscriber.tenantId);
  }

  /** Compares the heads of the tenants that are served here with the database, and heals what was missed. */
  async poll(): Promise<void> {
    if (this.#polling) return;
    this.#polling = true;
    const known = new Map([...this.hubs.values()].map((hub) => [hub, hub.tail.head]));
    const askedAt = Date.now();
    try {
      // Also without tenants: the answer tells the database's time.
      const [now, states, held] = await Promise.all([
        this.reads.now(),
        this.reads.heads([...known.keys()].map(({ tenantId }) => tenantId)),
        this.nodeName.seen(),
      ]);
      this.clock.observe(askedAt, now);
      this.replacements.seen();
      if (this.#databaseAway) this.#logger.log('the log can be read again');
      this.#databaseAway = false;
      // Their records in history, by which others know of them, have ended.
      if (held === 'anew') for (const hub of this.hubs.values()) this.#restart(hub);
      const heads = new Map(states.map(({ tenantId, head }) => [tenantId, head]));
      for (const [hub, before] of known) {
        if (this.hubs.get(hub.tenantId) !== hub) continue;
        const head = heads.get(hub.tenantId);
        // Below what was known before the question: the database lost a part of the log that streams have seen.
        if (head === undefined || head < before) {
          this.#logger.warn(`the log of tenant ${hub.tenantId} went back: its streams start anew`);
          this.#restart(hub);
        } else await hub.reach(head);
      }
    } catch (error) {
      this.databaseTrouble(error);
    } finally {
      this.#polling = false;
    }
  }

  /** Ends every stream with `bye` `shutdown`, spread over time, and writes the last of the ledger (P12). */
  async onModuleDestroy(): Promise<void> {
    this.draining.begin();
    for (const timer of this.#timers) clearInterval(timer);
    const patience = (this.config.SHUTDOWN_DEADLINE_SECONDS * 1_000) / 4;
    // What waits for a database that does not answer must not cost the streams their `bye`.
    await Promise.race([this.ingest.settled(), sleep(patience, undefined, { ref: false })]);
    this.#committed?.unsubscribe();
    const all = [...this.hubs.values()].flatMap((hub) => [...hub.connections]);
    const spread = this.config.SHUTDOWN_SPREAD_SECONDS * 1_000;
    all.forEach((connection, index) =>
      connection.end(
        'shutdown',
        jittered(this.config.STREAM_RETRY_MS) + Math.round((spread * index) / all.length),
        patience,
      ),
    );
    await this.capacity.empty();
    // What stands under a name that was not to be had is of another process.
    if (this.nodeName.taken) await Promise.all([this.receipts.close(), this.capacity.close()]);
    await this.nodeName.leave();
    this.counts.publish(this.metrics);
  }

  #begin(request: StreamRequest, arrived: Registered, stream: StreamSocket): void {
    const { tenantId, user, device, topics, tokenExpiresAt, caller, autoAck } = request;
    const { start, head, outcome, requested, at: openedAt } = arrived;
    const subscriber: Subscriber = {
      connectionId: randomUUID(),
      tenantId,
      user,
      device,
      topics,
      tokenExpiresAt,
      caller,
      autoAck,
      openedAt,
    };
    let hub = this.hubs.get(tenantId);
    if (hub === undefined) {
      hub = new TenantHub(tenantId, head, this);
      this.hubs.set(tenantId, hub);
    }
    const connection = new Connection(subscriber, start, head, stream, hub, this);
    hub.join(connection);
    this.metrics.behind.inc();
    this.metrics.streamsOpened.inc({ resume: outcome });
    if (requested !== undefined) this.metrics.gapsAnnounced.inc();
    this.receipts.opened(subscriber, subscriber.openedAt, start);
    const gap =
      requested === undefined ? { from: start, oldest: undefined } : { from: requested, oldest: start };
    // One write with what follows at once, often the end of the backlog.
    stream.socket.cork();
    stream.write(
      syncFrame({
        connectionId: subscriber.connectionId,
        device,
        resume: outcome,
        head,
        tokenExpiresAt,
        ...gap,
      }),
    );
    // The first tick reads on, unless the token is about to end.
    connection.tick(Date.now());
    stream.socket.uncork();
    this.replacements.opened(connection);
  }

  #refuse(stream: StreamSocket, reason: ByeReason, retryMs: number = this.config.STREAM_RETRY_MS): void {
    this.metrics.streamsEnded.inc({ reason });
    stream.end(byeFrame(reason, jittered(retryMs)));
  }

  #restart(hub: TenantHub<Connection>): void {
    this.hubs.delete(hub.tenantId);
    for (const connection of hub.connections)
      connection.end('unavailable', jittered(this.config.STREAM_RETRY_MS));
  }

  async #tick(): Promise<void> {
    this.#tailWeight = 0;
    for (const hub of this.hubs.values()) this.#tailWeight += hub.tail.weight;
    this.metrics.tailBytes.set(this.#tailWeight);
    this.counts.publish(this.metrics);
    if (this.#ticking) return;
    this.#ticking = true;
    // To look at ten thousand streams takes as long as a publish may.
    const slice = new TimeSlicer();
    const until = performance.now() + TICK_STRETCH_MS;
    try {
      for (const hub of this.hubs.values())
        for (const connection of hub.connections) {
          connection.tick(Date.now());
          if (slice.isOver && performance.now() < until) await slice.next();
        }
    } finally {
      this.#ticking = false;
    }
  }
}
