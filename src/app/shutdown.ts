import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, type OnModuleDestroy } from '@nestjs/common';
import { NodeName } from '../cluster/nodes.ts';
import { CONFIG, type Config, Draining } from '../core/config.ts';
import { ConnectionQuota } from '../delivery/connection-quota.ts';
import { LogFeed } from '../delivery/log-feed.ts';
import { Streams } from '../delivery/streams.ts';
import { Ingest } from '../log/ingest.ts';
import { Receipts } from '../receipts/receipts.ts';

/**
 * How a node ends, in its phases (P12). It belongs to the module that imports all others, so Nest asks it before them.
 *
 * Behind it whatever runs by itself stops (`onModuleDestroy` of the other modules), then the HTTP server closes, and at last the
 * pools do (`onApplicationShutdown`). The whole takes SHUTDOWN_DEADLINE_SECONDS at most; what waits for others has a quarter each.
 */
@Injectable()
export class Shutdown implements OnModuleDestroy {
  constructor(
    private readonly draining: Draining,
    private readonly ingest: Ingest,
    private readonly feed: LogFeed,
    private readonly streams: Streams,
    private readonly receipts: Receipts,
    private readonly quota: ConnectionQuota,
    private readonly nodeName: NodeName,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async onModuleDestroy(): Promise<void> {
    // 1. /health/ready says so, and requests are taken until those who send them have found another node, if one stays.
    this.draining.announce();
    const finds = await this.#othersStay();
    const delay = finds ? this.config.SHUTDOWN_DELAY_SECONDS : 0;
    await sleep(delay * 1_000);
    // Where all stop at once, each has said so by now.
    const hasOthers = finds && (await this.#othersStay());
    const patience = ((this.config.SHUTDOWN_DEADLINE_SECONDS - delay) * 1_000) / 4;

    // 2. Nothing new begins: publishes and streams are refused.
    this.draining.begin();

    // 3. What was accepted is stored, and sent. What waits for a database that does not answer must not cost the streams their `bye`.
    await Promise.race([this.ingest.settled(), sleep(patience, undefined, { ref: false })]);

    // 4. Streams end, each told when to come back: at once where another node is.
    this.feed.close();
    await this.streams.endAll(
      hasOthers ? this.config.MOVING_RETRY_MS : this.config.STREAM_RETRY_MS,
      patience,
    );

    // 5. What they did is written, and others may have the name. A node that did not get its name has written
    // nothing: what stands under it is of another process.
    if (this.nodeName.taken) await Promise.all([this.receipts.close(), this.quota.close()]);
    await this.nodeName.leave();
  }

  /** Tells the other nodes, and asks whether one goes on. A database that does not answer soon knows of none. */
  async #othersStay(): Promise<boolean> {
    const unknown = sleep(this.config.SHUTDOWN_DEADLINE_SECONDS * 125, false, { ref: false });
    return await Promise.race([this.nodeName.drains(), unknown]).catch(() => false);
  }
}
