import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../core/config.ts';
import { errorCode } from '../postgres/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Partition, PartitionsStore } from '../log/partitions.store.ts';
import type { Position } from '../core/position.ts';
import type { Floor, RetentionStore } from './retention.store.ts';
import type { Step } from './step.ts';

const TENANTS = 500;
/** Stream rows that one statement locks: its commit is what their publishers wait for. */
const ROWS = 50;
/** A partition goes in a moment in which nobody reads its table; it is tried this often in a round. */
const ATTEMPTS = 20;
const PAUSE_MS = 250;

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
    const raised = new Set<TenantId>();
    for (let after: string | undefined = ''; after !== undefined && !this.step.stopping;) {
      const page = await this.store.due(after, TENANTS, this.config.RETENTION_DAYS);
      const due = page.flatMap(({ floor, ...rest }) => (floor === null ? [] : [{ ...rest, floor }]));
      let more = false;
      for (let at = 0; at < due.length && !this.step.stopping; at += ROWS)
        for (const floor of await this.#raise(due.slice(at, at + ROWS))) {
          raised.add(floor.tenantId);
          more ||= floor.more;
        }
      if (more) continue;
      after = page.length < TENANTS ? undefined : page.at(-1)?.tenantId;
    }
    return raised.size;
  }

  /** Those that were raised. */
  async #raise(floors: readonly Floor[]): Promise<Floor[]> {
    const free = await this.store.raiseFree(floors);
    const raised = floors.filter(({ tenantId }) => free.has(tenantId));
    for (const floor of floors.filter(({ tenantId }) => !free.has(tenantId)))
      await this.step.attempt('floor', async () => {
        if (await this.store.raiseOne(floor)) raised.push(floor);
      });
    return raised;
  }

  /** Drops the partitions that lie wholly below the longest retention of any tenant. */
  async dropPartitions(): Promise<number> {
    let dropped = 0;
    const cutoff = await this.store.cutoff(this.config.RETENTION_DAYS);
    // Notifications go before what was sent and confirmed of them, and what stays keeps both.
    const staying = new Set<Position>();
    for (const partition of await this.partitions.attached((...statement) => this.step.run(...statement))) {
      const { table, from, end } = partition;
      if (end > cutoff || staying.has(from) || this.step.stopping) continue;
      if (await this.step.attempt('drop', () => this.#drop(partition))) dropped += 1;
      else if (table === 'notifications') staying.add(from);
    }
    return dropped;
  }

  async #drop(partition: Partition): Promise<void> {
    const keeper = partition.table === 'notifications' ? await this.store.keeper(partition) : undefined;
    if (keeper !== undefined)
      throw new Error(`${partition.name} still holds notifications above the floor of tenant ${keeper}`);
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.store.drop(partition);
        return;
      } catch (error) {
        if (errorCode(error) !== '55P03' || attempt === ATTEMPTS || this.step.stopping) throw error;
        // Somewhere in between, so that statements that come at regular times are not met again and again.
        await sleep(PAUSE_MS * Math.random());
      }
    }
  }
}
