import {
  Inject,
  Injectable,
  Logger,
  Module,
  type OnApplicationBootstrap,
  type OnModuleDestroy,
} from '@nestjs/common';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { LogThrottle } from '../concurrency/pacing.ts';
import { POSITIONS_PER_MS } from '../core/position.ts';
import { PARTITIONED, PartitionsStore, Partitions, PartitionsModule } from '../log/partitions.ts';
import { type Pool, type Statement } from '../postgres/pool.ts';
import { Metrics, type RoundResult } from '../telemetry/metrics.ts';
import { Retention, RetentionStore } from './retention.store.ts';
import { ROUND_LOCK, SessionsStore, TRY_LOCK, type Step, type StepName } from './round.store.ts';
import { Sweep } from './sweep.store.ts';
import { CrossTenantPool, MaintenancePool } from '../postgres/pools.ts';
import { isConnectionLoss } from '../postgres/errors.ts';

/** What a round did. */
interface MaintenanceReport {
  /** False: another node was at work. */
  worked: boolean;
  floorsRaised: number;
  partitionsDropped: number;
  idempotencyKeysForgotten: number;
  revocationsForgotten: number;
  streamCommandsForgotten: number;
  streamTicketsForgotten: number;
  erasuresForgotten: number;
  devicesForgotten: number;
  connectionsForgotten: number;
  connectionsEnded: number;
  nodesForgotten: number;
  /** Steps that failed, in order; the log says why. */
  failed: StepName[];
}

/** The first round comes after the start, at a random time, so that nodes that start together do not meet. */
const FIRST_ROUND_MS = 2_000;

/** A round that is skipped now and then is normal. This many in a row mean that somebody keeps the lock. */
const SUSPICIOUS_SKIPS = 3;

/**
 * Keeps the database in shape: partitions in advance, retention, sweeps. One node works at a time, and the others skip their
 * round. Every step may fail and is tried again in the next round.
 *
 * Each statement of a round takes the lock of rounds for its own transaction. Behind a pooler that lends sessions by the
 * transaction, a lock of the session would outlive the round and stop the maintenance of all nodes. A node that finds
 * another one at work, even between two of its own statements, leaves the rest to that one.
 */
@Injectable()
export class Maintenance implements OnApplicationBootstrap, OnModuleDestroy {
  readonly #logger = new Logger(Maintenance.name);
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<MaintenanceReport> | undefined;
  #pid: number | undefined;
  #stopping = false;
  /** Rounds in a row that were skipped because another session had the lock. */
  #skips = 0;

  constructor(
    private readonly pool: MaintenancePool,
    private readonly partitions: Partitions,
    private readonly partitionsStore: PartitionsStore,
    private readonly sessions: SessionsStore,
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onApplicationBootstrap(): void {
    this.#schedule(FIRST_ROUND_MS * (0.5 + Math.random()));
  }

  /** Stops a round that is under way: its statement is cancelled, and no other one begins. */
  async onModuleDestroy(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    if (this.#pid !== undefined) await this.sessions.cancel(this.#pid, ROUND_LOCK).catch(() => undefined);
    await this.#running;
  }

  /** Does a round now, or joins the one that is under way on this node. Does not throw. */
  async runOnce(): Promise<MaintenanceReport> {
    this.#running ??= this.#round().finally(() => {
      this.#running = undefined;
    });
    return await this.#running;
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => void this.#roundAndNext(), ms).unref();
  }

  async #roundAndNext(): Promise<void> {
    await this.runOnce();
    if (!this.#stopping) this.#schedule(this.config.MAINTENANCE_INTERVAL_SECONDS * 1000);
  }

  async #round(): Promise<MaintenanceReport> {
    const report: MaintenanceReport = {
      worked: false,
      floorsRaised: 0,
      partitionsDropped: 0,
      idempotencyKeysForgotten: 0,
      revocationsForgotten: 0,
      streamCommandsForgotten: 0,
      streamTicketsForgotten: 0,
      erasuresForgotten: 0,
      devicesForgotten: 0,
      connectionsForgotten: 0,
      connectionsEnded: 0,
      nodesForgotten: 0,
      failed: [],
    };
    const attempt = (name: StepName, work: () => Promise<void>) => this.#attempt(report, name, work);
    let taken = false;
    try {
      report.worked = await attempt('lock', () => this.#underLock(async () => undefined));
      if (report.worked) await this.#work(report, attempt);
    } catch (error) {
      taken = error instanceof RoundTaken;
    }
    if (!this.#stopping) await this.#count(taken ? 'skipped' : report.failed.length > 0 ? 'failed' : 'done');
    // Every node has gauges of its own, so a node that skips its round has to set them as well.
    await attempt('watch', () => this.#measure()).catch(() => undefined);
    return report;
  }

  /** Runs `work` in a transaction that has the lock of rounds. Throws RoundTaken if another session has it. */
  async #underLock<Result>(work: (run: Pool['rows']) => Promise<Result>): Promise<Result> {
    return await this.pool.transaction(async (run) => {
      const [lock] = await run<{ locked: boolean; pid: number }>(TRY_LOCK);
      if (lock?.locked !== true) throw new RoundTaken('another session has the lock');
      this.#pid = lock.pid;
      try {
        return await work(run);
      } finally {
        this.#pid = undefined;
      }
    });
  }

  async #count(result: RoundResult): Promise<void> {
    this.metrics.maintenanceRounds.inc({ result });
    if (result === 'done') this.metrics.maintenanceDone.setToCurrentTime();
    this.#skips = result === 'skipped' ? this.#skips + 1 : 0;
    if (this.#skips === 0) return;
    const holder = await this.sessions.holder(ROUND_LOCK).catch(() => undefined);
    const who =
      holder === undefined ? 'is over by now' : `session ${holder.pid}, "${holder.name}", has the lock`;
    const line = `a round of maintenance did not run, since another one was under way (${who})`;
    if (this.#skips < SUSPICIOUS_SKIPS) this.#logger.log(line);
    else this.#logger.warn(`${line}; that was so ${this.#skips} times in a row`);
  }

  async #work(report: MaintenanceReport, attempt: Step['attempt']): Promise<void> {
    const isStopping = () => this.#stopping;
    const run: Pool['rows'] = (statement, values) => this.#underLock((locked) => locked(statement, values));
    const step: Step = {
      run,
      attempt,
      get stopping() {
        return isStopping();
      },
    };
    const retention = new Retention(new RetentionStore(run), this.partitionsStore, this.config, step);
    const sweep = new Sweep(this.config, step);
    await attempt('partitions', () => this.partitions.ensureAhead());
    await attempt('floor', async () => void (report.floorsRaised = await retention.raiseFloors()));
    await attempt('drop', async () => void (report.partitionsDropped = await retention.dropPartitions()));
    await attempt(
      'sweep',
      async () => void (report.idempotencyKeysForgotten = await sweep.idempotencyKeys()),
    );
    await attempt('sweep', async () => void (report.revocationsForgotten = await sweep.revocations()));
    await attempt('sweep', async () => void (report.streamCommandsForgotten = await sweep.streamCommands()));
    await attempt('sweep', async () => void (report.streamTicketsForgotten = await sweep.streamTickets()));
    await attempt('sweep', async () => void (report.erasuresForgotten = await sweep.erasures()));
    await attempt('sweep', async () => void (report.connectionsEnded = await sweep.lostConnections()));
    await attempt('sweep', async () => void (report.connectionsForgotten = await sweep.endedConnections()));
    await attempt('sweep', async () => void (report.devicesForgotten = await sweep.devices()));
    await attempt('sweep', async () => void (report.nodesForgotten = await sweep.nodes()));
  }

  async #attempt(report: MaintenanceReport, name: StepName, work: () => Promise<void>): Promise<boolean> {
    if (this.#stopping) return false;
    try {
      await work();
      return true;
    } catch (error) {
      // The shutdown cancelled it, which is not a failure.
      if (this.#stopping) return false;
      // The step within this one has counted and logged it already.
      if (error instanceof RoundBroken || error instanceof RoundTaken) throw error;
      report.failed.push(name);
      this.metrics.maintenanceFailures.inc({ step: name });
      this.#logger.warn(
        `maintenance step '${name}' failed and will be tried again: ${error instanceof Error ? error.message : String(error)}`,
      );
      if (isConnectionLoss(error)) throw new RoundBroken('the connection is lost', { cause: error });
      return false;
    }
  }

  async #measure(): Promise<void> {
    const { now, head } = await this.partitionsStore.newest();
    const attached = await this.partitionsStore.attached();
    const ahead = PARTITIONED.map(
      (table) =>
        attached.filter((partition) => partition.table === table && partition.from > Math.max(now, head))
          .length,
    );
    this.metrics.partitionsAhead.set(Math.min(...ahead));
    this.metrics.headAheadOfClock.set(Math.max(0, head - now) / POSITIONS_PER_MS / 1000);
  }
}

/* Across tenants. PostgreSQL shows the sessions of other users only to the users that may see them. */
const OLDEST_SNAPSHOT: Statement = {
  name: 'oldest_snapshot',
  text: `
select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 as seconds
from pg_stat_activity
where backend_xmin is not null and backend_type = 'client backend' and datname = current_database() and pid <> pg_backend_pid()`,
};

/** How often a look at the oldest snapshot that fails is told, in ms. */
const SNAPSHOT_LOG_MS = 60_000;

/** Keeps the gauge of the oldest snapshot up to date, on every node and between rounds: a snapshot may come and go in one. */
@Injectable()
class SnapshotWatch implements OnApplicationBootstrap, OnModuleDestroy {
  readonly #logger = new Logger(SnapshotWatch.name);
  readonly #failures = new LogThrottle(SNAPSHOT_LOG_MS);
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #stopping = false;

  constructor(
    // Not that of rounds, where a statement may take minutes.
    private readonly pool: CrossTenantPool,
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onApplicationBootstrap(): void {
    this.#looking = this.#lookAndNext();
  }

  async onModuleDestroy(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    await this.#looking;
  }

  /** While the database does not answer, the gauge stays as it is. */
  async #lookAndNext(): Promise<void> {
    try {
      const [row] = await this.pool.rows<{ seconds: number }>(OLDEST_SNAPSHOT);
      this.metrics.oldestSnapshot.set(row?.seconds ?? 0);
    } catch (error) {
      this.#failures.note(() =>
        this.#logger.warn(`the age of the oldest snapshot is not known: ${messageOf(error)}`),
      );
    }
    if (this.#stopping) return;
    this.#timer = setTimeout(() => {
      this.#looking = this.#lookAndNext();
    }, this.config.SNAPSHOT_WATCH_SECONDS * 1_000).unref();
  }
}

class RoundBroken extends Error {}
class RoundTaken extends Error {}

@Module({
  imports: [PartitionsModule],
  providers: [SessionsStore, Maintenance, SnapshotWatch],
  exports: [Maintenance],
})
export class MaintenanceModule {}
