import type { Config } from '../config.ts';
import { PARTITIONED, type Partitioned } from '../log/partition-range.ts';
import type { Partition, PartitionsStore } from '../log/partitions.store.ts';
import type { Position } from '../log/position.ts';
import type { Floor, RetentionStore } from './retention.store.ts';
import type { Step } from './step.ts';

const TENANTS = 500;
/** Stream rows that one statement locks: its commit is what their publishers wait for. */
const ROWS = 50;

/**
 * Takes away what nobody keeps any longer: first the floors are committed, so that no reader can be handed a page
 * with a hole and not hear of it; then whole partitions go.
 */
export class Retention {
  constructor(
    private readonly store: RetentionStore,
    private readonly partitions: PartitionsStore,
    private readonly config: Pick<Config, 'RETENTION_DAYS'>,
    private readonly step: Step,
  ) {}

  /** Raises the floor of every tenant to the newest notification that its kept days have passed. */
  async raiseFloors(): Promise<number> {
    let raised = 0;
    for (let after: string | undefined = ''; after !== undefined && !this.step.stopping;) {
      const page = await this.store.due(after, TENANTS, this.config.RETENTION_DAYS);
      const due = page.flatMap(({ tenantId, floor }) => (floor === null ? [] : [{ tenantId, floor }]));
      for (let at = 0; at < due.length && !this.step.stopping; at += ROWS)
        raised += await this.#raise(due.slice(at, at + ROWS));
      after = page.length < TENANTS ? undefined : page.at(-1)?.tenantId;
    }
    return raised;
  }

  async #raise(floors: readonly Floor[]): Promise<number> {
    let raised = 0;
    const free = await this.store.raiseFree(floors);
    for (const floor of floors) {
      if (free.has(floor.tenantId)) raised += 1;
      else if (await this.step.attempt('floor', () => this.store.raiseOne(floor))) raised += 1;
    }
    return raised;
  }

  /** Drops the partitions that lie wholly below the longest retention of any tenant. */
  async dropPartitions(): Promise<number> {
    let dropped = 0;
    for (const name of await this.store.leftBehind()) {
      if (await this.step.attempt('drop', () => this.store.drop(name))) dropped += 1;
    }
    const cutoff = await this.store.cutoff(this.config.RETENTION_DAYS);
    const attached = await this.partitions.attached((statement, values) => this.step.run(statement, values));
    for (const table of PARTITIONED) dropped += await this.#dropOf(table, attached, cutoff);
    return dropped;
  }

  /** Per table the first failure ends it: a table can have one partition that is half detached, not two. */
  async #dropOf(table: Partitioned, attached: readonly Partition[], cutoff: Position): Promise<number> {
    let dropped = 0;
    await this.step.attempt('drop', async () => {
      const own = attached.filter((partition) => partition.table === table);
      // The half detached one first, for the same reason.
      for (const partition of own.toSorted((a, b) => Number(b.detaching) - Number(a.detaching))) {
        if (this.step.stopping) return;
        const begun = partition.detaching && (await this.store.isMarked(partition));
        if (!begun && partition.end > cutoff) continue;
        await this.#drop(partition);
        dropped += 1;
      }
    });
    return dropped;
  }

  async #drop(partition: Partition): Promise<void> {
    const keeper = partition.table === 'notifications' ? await this.store.keeper(partition) : undefined;
    if (keeper !== undefined)
      throw new Error(`${partition.name} still holds notifications above the floor of tenant ${keeper}`);
    await this.store.mark(partition);
    await this.store.detach(partition);
    await this.store.drop(partition.name);
  }
}
