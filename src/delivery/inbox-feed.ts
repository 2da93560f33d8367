import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { Bus } from '../cluster/bus.ts';
import { LogThrottle } from '../concurrency/pacing.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { digestOf, type TenantId, type UserId } from '../core/identifiers.ts';
import { Inbox } from '../inbox/inbox.ts';
import { InboxStore } from '../inbox/inbox.store.ts';
import type { InboxWatch } from './inbox-watch.ts';

/** How many polls of the log come before the inboxes are compared with the database: while the bus hears, and while it does not. */
const POLLS = { connected: 20, alone: 20, degraded: 2 } as const;

/** At most one line of log in so long, in ms. */
const TROUBLE_MS = 60_000;

/** By this nodes tell one another of a user, whose name is nobody else's business. */
export const watchKeyOf = (tenantId: TenantId, user: UserId): string =>
  digestOf(tenantId, user).toString('base64url').slice(0, 22);

interface Watched {
  readonly tenantId: TenantId;
  readonly user: UserId;
  readonly watches: Set<InboxWatch>;
}

/**
 * Has streams tell of an inbox that has changed: by this node at once, by another as soon as the bus says so. Whatever the bus
 * says or does not say, what streams were told is compared with the database now and then.
 */
@Injectable()
export class InboxFeed implements OnModuleInit, OnModuleDestroy {
  readonly #logger = new Logger(InboxFeed.name);
  readonly #trouble = new LogThrottle(TROUBLE_MS);
  readonly #watched = new Map<string, Watched>();
  readonly #subscriptions: Subscription[] = [];
  #timer: NodeJS.Timeout | undefined;
  #comparedAt = performance.now();
  #comparing: Promise<void> | undefined;

  constructor(
    private readonly inbox: Inbox,
    private readonly store: InboxStore,
    private readonly bus: Bus,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onModuleInit(): void {
    this.#subscriptions.push(
      this.inbox.changed.subscribe(({ tenantId, users }) => {
        const keys = users.map((user) => watchKeyOf(tenantId, user));
        this.bus.announceInboxes(keys);
        for (const key of keys) this.#due(key);
      }),
      this.bus.inboxes.subscribe((key) => this.#due(key)),
      this.bus.resumed.subscribe(() => void this.compare()),
    );
    this.#timer = setInterval(() => {
      const { state } = this.bus;
      if (performance.now() >= this.#comparedAt + POLLS[state] * this.config.LOG_POLL_MS) void this.compare();
    }, this.config.LOG_POLL_MS);
  }

  async onModuleDestroy(): Promise<void> {
    clearInterval(this.#timer);
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    await this.#comparing;
  }

  join(tenantId: TenantId, user: UserId, watch: InboxWatch): void {
    const key = watchKeyOf(tenantId, user);
    const known = this.#watched.get(key);
    if (known === undefined) this.#watched.set(key, { tenantId, user, watches: new Set([watch]) });
    else known.watches.add(watch);
  }

  leave(tenantId: TenantId, user: UserId, watch: InboxWatch): void {
    const key = watchKeyOf(tenantId, user);
    const known = this.#watched.get(key);
    known?.watches.delete(watch);
    if (known?.watches.size === 0) this.#watched.delete(key);
  }

  /** Compares what streams were told with the database, and has those tell again that were told of something older. */
  async compare(): Promise<void> {
    this.#comparing ??= this.#compare().finally(() => {
      this.#comparing = undefined;
    });
    await this.#comparing;
  }

  async #compare(): Promise<void> {
    this.#comparedAt = performance.now();
    const byTenant = Map.groupBy(this.#watched.values(), ({ tenantId }) => tenantId);
    try {
      for (const [tenantId, watched] of byTenant) {
        const users = watched.map(({ user }) => user);
        const { floor, revisions } = await this.store.revisions(tenantId, users);
        for (const { user, watches } of watched)
          for (const watch of watches) watch.compare(revisions.get(user), floor);
      }
    } catch (error) {
      this.#trouble.note(() => {
        this.#logger.warn(`inboxes cannot be compared, streams may tell old numbers: ${messageOf(error)}`);
      });
    }
  }

  #due(key: string): void {
    for (const watch of this.#watched.get(key)?.watches ?? []) watch.due();
  }
}
