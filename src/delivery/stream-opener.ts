import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { TokenStatus } from '../auth/tokens.ts';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import { InFlight } from '../concurrency/pacing.ts';
import { CONFIG, type Config, Draining } from '../core/config.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { AppendStore } from '../log/append.store.ts';
import {
  DevicesStore,
  TenantUnknown,
  type DeviceRegistration,
  type Registered,
  type RegistrationRefusal,
  type StartFrom,
} from '../receipts/devices.store.ts';
import { Receipts } from '../receipts/receipts.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { Tenants } from '../tenants/tenants.ts';
import { Connection } from './connection.ts';
import { Hubs } from './hubs.ts';
import { ConnectionQuota } from './connection-quota.ts';
import { Eviction } from './eviction.ts';
import { byeFrame, jittered, SLOW_RETRY_MS, syncFrame, type ByeReason } from './frames.ts';
import type { StreamSocket } from './socket.ts';
import type { Subscriber } from './stream-node.ts';
import { Streams, TICK_MS } from './streams.ts';
import { TenantHub } from './tenant-hub.ts';

/** A client that asks for its stream: who it is by its token, and what it wants. */
export interface StreamRequest extends Omit<Subscriber, 'connectionId' | 'openedAt'> {
  readonly from: StartFrom;
  readonly resume: Position | undefined;
  readonly malformed: boolean;
}

/**
 * `atOnce`: most devices that one statement registers. `collectsMs`: for how long a crowd is collected for one, in ms, since
 * thousands come back within seconds.
 */
const TOGETHER = { atOnce: 300, collectsMs: 500 };

/** Opens streams: registers their devices, finds where they start, and joins them to the hub of their tenant. */
@Injectable()
export class StreamOpener {
  readonly #opening = new InFlight<TenantId>();
  /** Devices of one tenant that come together share a statement. */
  readonly #registrations = new KeyedBatcher<TenantId, DeviceRegistration, Registered | RegistrationRefusal>(
    (tenantId, devices) => this.#register(tenantId, devices),
    TOGETHER,
  );

  constructor(
    private readonly devices: DevicesStore,
    private readonly log: AppendStore,
    private readonly tenants: Tenants,
    private readonly tokenStatus: TokenStatus,
    private readonly draining: Draining,
    private readonly quota: ConnectionQuota,
    private readonly eviction: Eviction,
    private readonly hubs: Hubs,
    private readonly streams: Streams,
    private readonly receipts: Receipts,
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  /**
   * Serves a stream on a socket that was taken from HTTP and greeted. What is in the way and will pass (a limit,
   * shutdown, the database) is said with `bye`: a status other than 200 would make an EventSource give up for ever.
   */
  async open(request: StreamRequest, stream: StreamSocket): Promise<void> {
    await this.#opening.track(request.tenantId, this.#open(request, stream));
  }

  /** Waits until the streams of a tenant that are being opened now are open or refused. */
  async openingsOver(tenantId: TenantId): Promise<void> {
    await this.#opening.settled(tenantId);
  }

  async #open(request: StreamRequest, stream: StreamSocket): Promise<void> {
    const { tenantId } = request;
    if (this.draining.active) return this.#refuse(stream, 'shutdown');
    if (!this.quota.take(tenantId)) return this.#refuse(stream, 'over-limit');
    let begun = false;
    try {
      const { devicesPerUser: mostDevices } = this.tenants.limits(tenantId);
      const registered = await this.#registrations.request(tenantId, { ...request, mostDevices });
      if (stream.socket.destroyed) return;
      if (this.draining.active) return this.#refuse(stream, 'shutdown');
      if (registered === 'being-erased') return this.#refuse(stream, 'unavailable');
      // The database may have taken longer than the token had left.
      if (request.tokenExpiresAt - Date.now() <= TICK_MS) return this.#refuse(stream, 'token-expired');
      // Its token may have been revoked meanwhile: open streams are told of that, and this one was not open.
      if (this.tokenStatus.refusal(request.caller) !== undefined) return this.#refuse(stream, 'revoked');
      if (registered === 'too-many-devices') {
        this.metrics.overLimit.inc({ limit: 'devicesPerUser' });
        return this.#refuse(stream, 'over-limit', SLOW_RETRY_MS);
      }
      this.#begin(request, registered, stream);
      begun = true;
    } catch (error) {
      // Its tenant was deleted, of which this node has not heard yet.
      if (error instanceof TenantUnknown) return this.#refuse(stream, 'revoked');
      this.streams.databaseTrouble(error);
      this.#refuse(stream, 'unavailable');
    } finally {
      if (!begun) this.quota.leave(tenantId);
    }
  }

  /** Throws TenantUnknown if the tenant was deleted, or the database's error. */
  async #register(
    tenantId: TenantId,
    devices: readonly DeviceRegistration[],
  ): Promise<(Registered | RegistrationRefusal)[]> {
    try {
      return await this.devices.register(tenantId, devices);
    } catch (error) {
      // The first valid token of a tenant makes the tenant.
      if (!(error instanceof TenantUnknown) || !(await this.log.ensureTenant(tenantId))) throw error;
      return await this.devices.register(tenantId, devices);
    }
  }

  #begin(request: StreamRequest, registered: Registered, stream: StreamSocket): void {
    const { tenantId, user, device, topics, tokenExpiresAt, caller, autoAck, inbox } = request;
    const { start, head, outcome, requested, at: openedAt } = registered;
    const subscriber: Subscriber = {
      connectionId: randomUUID(),
      tenantId,
      user,
      device,
      topics,
      tokenExpiresAt,
      caller,
      autoAck,
      inbox,
      openedAt,
    };
    let hub = this.hubs.get(tenantId);
    if (hub === undefined) {
      hub = new TenantHub(tenantId, head, this.streams);
      this.hubs.set(tenantId, hub);
    }
    const connection = new Connection(subscriber, start, head, stream, hub, this.streams);
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
        user,
        tenantId,
        device,
        resume: outcome,
        head,
        tokenExpiresAt,
        heartbeatSeconds: this.config.HEARTBEAT_SECONDS,
        ...gap,
      }),
    );
    // A tick first, as once a second: it begins to read what follows, unless the token is about to end.
    connection.tick(Date.now());
    stream.socket.uncork();
    this.eviction.keepWithinLimit(connection);
  }

  #refuse(stream: StreamSocket, reason: ByeReason, retryMs: number = this.config.STREAM_RETRY_MS): void {
    this.metrics.streamsEnded.inc({ reason });
    stream.end(byeFrame(reason, jittered(retryMs)));
  }
}
