import { randomUUID } from 'node:crypto';
import { Global, Inject, Injectable, Logger, Module } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { CONFIG, type Config } from '../core/config.ts';
import { databaseUnavailable, isConnectionLoss, isNeverSent, isUnavailable } from '../postgres/errors.ts';
import { messageOf, Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { InFlight } from '../concurrency/pacing.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { Quotas } from './quota.ts';
import { type Appended, AppendStore, isPartitionMissing, type Publication } from './append.store.ts';
import { IdempotencyRecords } from './idempotency.ts';
import type { Batch, Notification, Stored } from '../core/notification.ts';
import { Partitions, PartitionsModule } from './partitions.ts';
import { asPosition, type Position } from '../core/position.ts';
import { ReadStore } from './read.store.ts';
import { TenantsModule } from '../tenants/tenants.ts';

interface Waiting {
  readonly publication: Publication;
  readonly size: number;
  /** Gives back what is reserved for it of the tenant's quota. */
  readonly release: () => void;
  readonly resolve: (stored: Stored) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Puts publications into the log. Per tenant, while one batch commits the next collects: a lone publish waits for
 * nobody, a crowd shares one fsync, and no timer is involved. The promise of `publish` resolves only after the commit.
 */
@Injectable()
export class Ingest {
  readonly #queues = new Map<TenantId, Waiting[]>();
  readonly #committed = new Subject<Batch>();
  readonly #running = new Set<Promise<void>>();
  readonly #underWay = new InFlight<TenantId>();
  readonly #logger = new Logger(Ingest.name);
  #notifications = 0;
  #bytes = 0;

  /**
   * Every batch of whose commit this node has heard, per tenant in the order of the log. What is found after a lost connection is
   * not among them, and comes by the log poll.
   */
  readonly committed: Observable<Batch> = this.#committed.asObservable();

  constructor(
    private readonly store: AppendStore,
    private readonly quotas: Quotas,
    private readonly records: IdempotencyRecords,
    private readonly partitions: Partitions,
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  /**
   * Stores a publication, or finds the first answer to its key.
   * @throws Problem `rate_limited` (429), `storage_full` (403), `overloaded` or `database_unavailable` (503),
   * `idempotency_mismatch` (422), `tenant_unknown` (403)
   */
  async publish(tenantId: TenantId, publication: Publication): Promise<Stored> {
    return await this.#underWay.track(tenantId, this.#publish(tenantId, publication));
  }

  async #publish(tenantId: TenantId, publication: Publication): Promise<Stored> {
    const { idempotency } = publication;
    if (idempotency === undefined) return await this.#reserve(tenantId, publication);

    // A duplicate that is under way on this node is joined here; one on another node meets us at the key's row.
    const duplicate = this.records.underWay(tenantId, idempotency);
    return await (duplicate ??
      this.records.during(tenantId, idempotency, this.#reserve(tenantId, publication)));
  }

  /** Waits until everything that was accepted is stored or refused. */
  async settled(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Waits until what was accepted for a tenant by now is stored or refused. */
  async settledOf(tenantId: TenantId): Promise<void> {
    await this.#underWay.settled(tenantId);
  }

  /** Refuses what waits for a tenant that was deleted. */
  purge(tenantId: TenantId): void {
    for (const waiting of this.#queues.get(tenantId)?.splice(0) ?? []) {
      this.#leave(waiting);
      waiting.reject(tenantGone());
    }
  }

  /** Lets the publication in if the tenant's limits do; a key that was used is answered all the same. */
  async #reserve(tenantId: TenantId, publication: Publication): Promise<Stored> {
    const { drafts, idempotency } = publication;
    const size = drafts.reduce((sum, draft) => sum + draft.size, 0);
    const reserved = await this.quotas.reserve(tenantId, drafts.length, size).catch((error: unknown) => {
      throw isUnavailable(error) ? databaseUnavailable(error) : error;
    });
    if (!(reserved instanceof Problem)) return await this.#enqueue(tenantId, publication, size, reserved);
    const known = idempotency && (await this.records.stored(tenantId, idempotency));
    if (known === undefined) throw reserved;
    return known;
  }

  #enqueue(tenantId: TenantId, publication: Publication, size: number, release: () => void): Promise<Stored> {
    const { INGEST_QUEUE_NOTIFICATIONS, INGEST_QUEUE_BYTES } = this.config;
    const full =
      this.#notifications + publication.drafts.length > INGEST_QUEUE_NOTIFICATIONS ||
      this.#bytes + size > INGEST_QUEUE_BYTES;
    // A request larger than the whole queue must still pass when nothing else waits.
    if (full && this.#notifications > 0) {
      release();
      return Promise.reject(
        new Problem('overloaded', 'Too many notifications wait to be stored on this node.', {
          retryAfter: 1,
        }),
      );
    }
    return new Promise((resolve, reject) => {
      this.#count(publication, size, 1);
      const waiting = { publication, size, release, resolve, reject };
      const queue = this.#queues.get(tenantId);
      if (queue !== undefined) {
        queue.push(waiting);
        return;
      }
      this.#queues.set(tenantId, [waiting]);
      const running = this.#drain(tenantId).finally(() => this.#running.delete(running));
      this.#running.add(running);
    });
  }

  /** The queue of a tenant exists as long as this runs. */
  async #drain(tenantId: TenantId): Promise<void> {
    for (let batch = this.#take(tenantId); batch.length > 0; batch = this.#take(tenantId)) {
      try {
        await this.#commit(tenantId, batch);
      } catch (error) {
        this.#refuse(tenantId, batch, error);
      }
      for (const waiting of batch) this.#leave(waiting);
    }
    this.#queues.delete(tenantId);
  }

  #take(tenantId: TenantId): Waiting[] {
    const queue = this.#queues.get(tenantId) ?? [];
    let drafts = 0;
    const beyond = queue.findIndex(({ publication }, index) => {
      drafts += publication.drafts.length;
      return index > 0 && drafts > this.config.INGEST_BATCH_SIZE;
    });
    return queue.splice(0, beyond === -1 ? queue.length : beyond);
  }

  async #commit(tenantId: TenantId, batch: readonly Waiting[]): Promise<void> {
    const appendId = randomUUID();
    try {
      await this.#append(tenantId, batch, appendId);
    } catch (error) {
      if (isNeverSent(error)) throw error;
      if (isConnectionLoss(error)) await this.#recover(tenantId, batch, appendId);
      else if (batch.length === 1 || isUnavailable(error)) throw error;
      // One of them broke the statement. Nothing was stored; alone, each stands for itself.
      else for (const one of batch) await this.#append(tenantId, [one], randomUUID()).catch(one.reject);
    }
  }

  async #append(tenantId: TenantId, batch: readonly Waiting[], appendId: string): Promise<void> {
    const publications = batch.map(({ publication }) => publication);
    const started = performance.now();
    const appended = await this.#appendSomehow(tenantId, publications, appendId);
    const committedAt = performance.now();
    this.metrics.appendSeconds.observe((committedAt - started) / 1000);
    const { previous, head, base, duplicates, usage } = appended;
    for (const { release } of batch) release();
    this.quotas.learn(tenantId, usage);

    const notifications: Notification[] = [];
    let n = 0;
    const again: Waiting[] = [];
    batch.forEach((waiting, index) => {
      const first = asPosition(base + n + 1);
      for (const draft of waiting.publication.drafts) {
        n += 1;
        if (!duplicates.has(index)) notifications.push({ ...draft, position: asPosition(base + n) });
      }
      if (duplicates.has(index)) again.push(waiting);
      else waiting.resolve({ first, ids: waiting.publication.drafts.map(({ id }) => id), replayed: false });
    });
    this.metrics.batchSize.observe(notifications.length);
    this.metrics.published.inc(notifications.length);
    this.#committed.next({ tenantId, previous, head, notifications, committedAt });
    await Promise.all(again.map((waiting) => this.#answerDuplicate(tenantId, waiting)));
  }

  /** The append, and what it may lack the first time: the partition, the tenant's rows. */
  async #appendSomehow(
    tenantId: TenantId,
    publications: readonly Publication[],
    appendId: string,
  ): Promise<Appended> {
    let appended = await this.#appendCovered(tenantId, publications, appendId);
    if (appended === undefined) {
      if (!(await this.store.ensureTenant(tenantId))) throw tenantGone();
      appended = await this.#appendCovered(tenantId, publications, appendId);
    }
    // No row is no commit: this must never become a 201.
    if (appended === undefined) throw new Error(`tenant ${tenantId} has no log`);
    return appended;
  }

  async #appendCovered(
    tenantId: TenantId,
    publications: readonly Publication[],
    appendId: string,
  ): Promise<Appended | undefined> {
    try {
      return await this.store.append(tenantId, publications, appendId, this.quotas.rateOf(tenantId));
    } catch (error) {
      if (!isPartitionMissing(error)) throw error;
      await this.partitions.ensureAhead();
      return await this.store.append(tenantId, publications, appendId, this.quotas.rateOf(tenantId));
    }
  }

  async #answerDuplicate(tenantId: TenantId, { publication, resolve, reject }: Waiting): Promise<void> {
    try {
      const { idempotency } = publication;
      const stored = idempotency && (await this.records.stored(tenantId, idempotency));
      // The duplicate's key was swept between the two statements: its window is over, and the caller may simply send again.
      if (stored === undefined)
        throw new Problem('overloaded', 'The Idempotency-Key just expired; send the request again.', {
          retryAfter: 1,
        });
      resolve(stored);
    } catch (error) {
      reject(error);
    }
  }

  /** The connection died under the statement: it may have been committed or not. The log itself tells. */
  async #recover(tenantId: TenantId, batch: readonly Waiting[], appendId: string): Promise<void> {
    const found = await this.#findStored(
      tenantId,
      batch.flatMap(({ publication }) => publication.drafts.map(({ id }) => id)),
      appendId,
    );
    this.quotas.doubt(tenantId);
    const missing: Waiting[] = [];
    for (const waiting of batch) {
      const ids = waiting.publication.drafts.map(({ id }) => id);
      const first = firstOf(ids, found);
      if (first === undefined) {
        missing.push(waiting);
        continue;
      }
      this.metrics.published.inc(ids.length);
      waiting.resolve({ first, ids, replayed: false });
    }
    this.#logger.warn(
      `append lost its connection: ${batch.length - missing.length} publications were stored, ${missing.length} are appended again`,
    );
    if (missing.length > 0) await this.#append(tenantId, missing, randomUUID());
  }

  /** What ended one connection mostly ended those that lay idle beside it, and each is found out by being used. */
  async #findStored(tenantId: TenantId, ids: readonly string[], appendId: string) {
    for (let idle = this.config.DATABASE_CONNECTIONS_PER_POOL; ; idle -= 1) {
      try {
        return await this.store.outcomeOf(tenantId, ids, appendId);
      } catch (error) {
        if (idle === 0 || isNeverSent(error) || !isConnectionLoss(error)) throw error;
      }
    }
  }

  #refuse(tenantId: TenantId, batch: readonly Waiting[], error: unknown): void {
    if (!isUnavailable(error)) {
      batch.forEach(({ reject }) => reject(error));
      return;
    }
    this.#logger.warn(`append failed, nothing was stored: ${messageOf(error)}`);
    // Those behind would only wait for the same refusal, each longer than the one before.
    const behind = this.#queues.get(tenantId)?.splice(0) ?? [];
    for (const waiting of behind) this.#leave(waiting);
    for (const { reject } of [...batch, ...behind]) reject(databaseUnavailable(error));
  }

  #leave({ publication, size, release }: Waiting): void {
    release();
    this.#count(publication, size, -1);
  }

  #count({ drafts }: Publication, size: number, sign: 1 | -1): void {
    this.#notifications += sign * drafts.length;
    this.#bytes += sign * size;
    this.metrics.ingestQueue.set(this.#notifications);
  }
}

/** Any of them tells: they were stored together, and what was erased since leaves the others where they are. */
function firstOf(ids: readonly string[], found: ReadonlyMap<string, Position>): Position | undefined {
  const index = ids.findIndex((id) => found.has(id));
  const position = found.get(ids[index] ?? '');
  return position === undefined ? undefined : asPosition(position - index);
}

const tenantGone = (): Problem => new Problem('tenant_unknown', 'The tenant of the token is not registered.');

@Global()
@Module({
  imports: [PartitionsModule, TenantsModule],
  providers: [AppendStore, ReadStore, Quotas, IdempotencyRecords, Ingest],
  exports: [AppendStore, ReadStore, Quotas, IdempotencyRecords, Ingest, PartitionsModule],
})
export class LogModule {}
