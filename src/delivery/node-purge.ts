import { Inject, Injectable } from '@nestjs/common';
import { CONFIG, type Config } from '../core/config.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import { Receipts } from '../receipts/receipts.ts';
import { Ingest } from '../log/ingest.ts';
import type { Position } from '../core/position.ts';
import { jittered } from './frames.ts';
import { Hubs } from './hubs.ts';
import { StreamOpener } from './stream-opener.ts';

/** Of whom this node is to have nothing in memory any more. */
export interface Purged {
  readonly tenantId: TenantId;
  /** The users, or all of the tenant. */
  readonly who: ((user: string) => boolean) | 'everybody';
  /** Streams that were let in up to then, in ms since 1970. */
  readonly openedUntil: number;
  /** Notifications up to there. */
  readonly upTo: Position;
}

/** Takes users, or a tenant, out of this node's memory: open streams, tails, and what waits to be stored as receipts or in the log. */
@Injectable()
export class NodePurge {
  constructor(
    private readonly opener: StreamOpener,
    private readonly hubs: Hubs,
    private readonly receipts: Receipts,
    private readonly ingest: Ingest,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  /**
   * When this resolves, whatever this node had taken of them by the call is in the database or nowhere: publishes are
   * stored or refused, streams have ended.
   */
  async purge({ tenantId, who, openedUntil, upTo }: Purged): Promise<void> {
    const isGone = (user: UserId) => who === 'everybody' || who(user);
    // A stream on its way in was not told of anything; behind it nobody is let in who should not be.
    await this.opener.openingsOver(tenantId);
    for (const connection of this.hubs.connections(tenantId)) {
      const { user, openedAt } = connection.subscriber;
      if (openedAt <= openedUntil && isGone(user)) connection.erase(jittered(this.config.STREAM_RETRY_MS));
    }
    // Unless it was made anew since, whose publishes these would be.
    if (who === 'everybody' && openedUntil === Infinity) this.ingest.purge(tenantId);
    await this.ingest.settledOf(tenantId);
    const hub = this.hubs.get(tenantId);
    if (who === 'everybody') hub?.tail.restart(hub.tail.head);
    else await hub?.purge(who, upTo);
    await this.receipts.purge(tenantId, ({ user, openedAt: since }) => since <= openedUntil && isGone(user));
  }
}
