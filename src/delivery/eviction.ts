import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { auditTime, buffer, concatMap, delayWhen, Subject, timer, type Subscription } from 'rxjs';
import { CONFIG, type Config } from '../core/config.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import { Receipts } from '../receipts/receipts.ts';
import { NODE_SILENCE_SECONDS } from '../cluster/nodes.ts';
import { Tenants } from '../tenants/tenants.ts';
import { type Connection } from './connection.ts';
import { Hubs } from './hubs.ts';
import { jittered, SLOW_RETRY_MS } from './frames.ts';
import { OpenConnectionsStore, type CrowdedUser } from './open-connections.store.ts';
import { StreamCommands, StreamCommandsStore, type StoredStreamCommand } from './stream-commands.ts';

/** Somebody who may have too many streams. */
interface Candidate {
  readonly tenantId: TenantId;
  readonly user: UserId;
}

/** Suspects that come within this many ms share a statement. */
const TOGETHER_MS = 50;
/** When to try again what the database did not answer, in ms. */
const AGAIN_MS = 500;
/**
 * How long after a `reconcile` streams are ended by it, in ms, beyond RECEIPTS_FLUSH_MS: by then every node has written down what
 * ended before, also one that is busy. A page that is reloaded must not cost its user another one.
 */
const SETTLED_MS = 400;

/**
 * Sees to it that no user has more streams than the limit of the tenant: the oldest go, on whichever node they are. What
 * is on one node goes at once. For the rest the records of open streams are what all nodes count by: a node that
 * finds too many has all nodes reconcile, and each ends its own (docs/adr/0010-limits-on-streams.md).
 */
@Injectable()
export class Eviction implements OnModuleInit, OnModuleDestroy {
  readonly #candidates = new Subject<readonly Candidate[]>();
  readonly #reconciliations = new Subject<Candidate & { readonly at: number }>();
  readonly #surplus = new Subject<readonly Candidate[]>();
  readonly #logger = new Logger(Eviction.name);
  #subscriptions: Subscription[] = [];
  #failing = false;
  #seenAt = performance.now();

  constructor(
    private readonly store: OpenConnectionsStore,
    private readonly commandsStore: StreamCommandsStore,
    private readonly commands: StreamCommands,
    private readonly receipts: Receipts,
    private readonly tenants: Tenants,
    private readonly hubs: Hubs,
    private readonly clock: DatabaseClock,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onModuleInit(): void {
    const settled = this.config.RECEIPTS_FLUSH_MS + SETTLED_MS;
    this.#subscriptions = [
      // Whoever is recorded last finds all the others: of several nodes at least one sees what is too many.
      this.receipts.recorded.subscribe(({ tenantId, opened }) =>
        this.#candidates.next(opened.map(({ user }) => ({ tenantId, user }))),
      ),
      this.#inTurn(this.#candidates, (crowded) => this.#tellAll(crowded)),
      this.#reconciliations
        .pipe(delayWhen(({ at }) => timer(Math.max(0, at + settled - this.clock.now()))))
        .subscribe((candidate) => this.#surplus.next([candidate])),
      this.#inTurn(this.#surplus, (crowded) => this.#end(crowded)),
      this.commands.received.subscribe((command) => {
        if (command.kind === 'reconcile') this.reconcile(command);
      }),
      this.tenants.changed.subscribe((tenantId) => this.#keepTo(tenantId)),
    ];
  }

  onModuleDestroy(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  /** A stream has opened here. */
  keepWithinLimit({ subscriber: { tenantId, user } }: Connection): void {
    const { connectionsPerUser: most } = this.tenants.limits(tenantId);
    const all = this.hubs.ofUser(tenantId, user);
    if (all.length <= most) return;
    const open = all.filter(({ isOpen }) => isOpen).toSorted(newestFirst);
    for (const connection of open.slice(most)) replace(connection);
  }

  /** Some node found that the user has too many. */
  reconcile({ tenantId, user, at }: StoredStreamCommand & { readonly kind: 'reconcile' }): void {
    if (this.hubs.ofUser(tenantId, user).length > 0) this.#reconciliations.next({ tenantId, user, at });
  }

  /** This node has just given a sign of life. While it gave none the others did not count its streams. */
  seen(): void {
    const now = performance.now();
    if (now - this.#seenAt > NODE_SILENCE_SECONDS * 1_000)
      for (const tenantId of this.hubs.keys()) this.#candidates.next(this.#usersOf(tenantId));
    this.#seenAt = now;
  }

  /** The limit may have changed; every node hears of that by itself. */
  #keepTo(tenantId: TenantId): void {
    for (const connection of this.hubs.connections(tenantId)) this.keepWithinLimit(connection);
    this.#surplus.next(this.#usersOf(tenantId));
  }

  #usersOf(tenantId: TenantId): Candidate[] {
    return [...this.hubs.connections(tenantId)].map(({ subscriber: { user } }) => ({ tenantId, user }));
  }

  /** Tells all nodes; what is too many may be on any. */
  async #tellAll(crowded: readonly CrowdedUser[]): Promise<void> {
    for (const [tenantId, users] of Map.groupBy(crowded, (user) => user.tenantId))
      await this.commandsStore.reconcile(
        tenantId,
        users.map(({ user }) => user),
      );
  }

  #end(crowded: readonly CrowdedUser[]): Promise<void> {
    for (const { tenantId, user, most, streams } of crowded)
      for (const { connectionId } of streams.slice(most)) {
        const connection = this.hubs.find(tenantId, user, connectionId);
        if (connection !== undefined) replace(connection);
      }
    return Promise.resolve();
  }

  /** One statement after the other: who of the candidates has too many, and what to do about it. */
  #inTurn(
    candidates: Subject<readonly Candidate[]>,
    act: (crowded: readonly CrowdedUser[]) => Promise<void>,
  ): Subscription {
    const attempt = async (due: readonly Candidate[]): Promise<void> => {
      try {
        const crowded = await this.#crowdedAmong(due);
        if (crowded.length > 0) await act(crowded);
        this.#failing = false;
      } catch (error) {
        if (!this.#failing)
          this.#logger.warn(`streams of users cannot be counted over all nodes: ${messageOf(error)}`);
        this.#failing = true;
        setTimeout(() => candidates.next(due), AGAIN_MS).unref();
      }
    };
    return candidates
      .pipe(
        // A timer runs only while somebody waits.
        buffer(candidates.pipe(auditTime(TOGETHER_MS))),
        concatMap((due) => attempt(due.flat())),
      )
      .subscribe();
  }

  async #crowdedAmong(candidates: readonly Candidate[]): Promise<CrowdedUser[]> {
    const users = new Map(
      candidates.map((candidate) => [`${candidate.tenantId} ${candidate.user}`, candidate]),
    );
    const crowded = await this.store.crowded(
      [...users.values()].map(({ tenantId, user }) => ({
        tenantId,
        user,
        most: this.tenants.limits(tenantId).connectionsPerUser,
      })),
    );
    // Of its own streams a node knows better what has ended.
    return crowded
      .map(({ streams, ...of }) => ({
        ...of,
        streams: streams.filter(
          ({ connectionId, node }) =>
            node !== this.config.NODE_NAME ||
            this.hubs.find(of.tenantId, of.user, connectionId)?.isOpen === true,
        ),
      }))
      .filter(({ streams, most }) => streams.length > most);
  }
}

/** As the statement orders them. */
const newestFirst = (a: Connection, b: Connection): number =>
  b.since - a.since || (a.subscriber.connectionId < b.subscriber.connectionId ? 1 : -1);

const replace = (connection: Connection): void => connection.end('replaced', jittered(SLOW_RETRY_MS));
