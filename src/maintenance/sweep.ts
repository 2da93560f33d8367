import type { Config } from '../core/config.ts';
import type { Step } from './step.ts';
import type { SweepStore, Swept } from './sweep.store.ts';

/** Rows that one statement takes, per tenant where it works on a page of them: a few milliseconds of work. */
const ROWS = 1_000;
const TENANTS = 100;

/** Forgets rows that are not partitioned and whose time is over, in small statements that leave room for others. */
export class Sweep {
  constructor(
    private readonly store: SweepStore,
    private readonly config: Pick<Config, 'IDEMPOTENCY_WINDOW_HOURS' | 'DEVICE_IDLE_DAYS' | 'RETENTION_DAYS'>,
    private readonly step: Step,
  ) {}

  async idempotencyKeys(): Promise<number> {
    return await this.#untilFew(() => this.store.idempotencyKeys(this.config.IDEMPOTENCY_WINDOW_HOURS, ROWS));
  }

  async revocations(): Promise<number> {
    return await this.#untilFew(() => this.store.revocations(ROWS));
  }

  async streamOrders(): Promise<number> {
    return await this.#untilFew(() => this.store.streamOrders(ROWS));
  }

  async streamTickets(): Promise<number> {
    return await this.#untilFew(() => this.store.streamTickets(ROWS));
  }

  async erasures(): Promise<number> {
    return await this.#untilFew(() => this.store.erasures(ROWS));
  }

  async devices(): Promise<number> {
    return await this.#tenants((after) =>
      this.store.devices(after, TENANTS, this.config.DEVICE_IDLE_DAYS, ROWS),
    );
  }

  async endedConnections(): Promise<number> {
    return await this.#tenants((after) =>
      this.store.endedConnections(after, TENANTS, this.config.RETENTION_DAYS, ROWS),
    );
  }

  async lostConnections(): Promise<number> {
    return await this.#untilFew(() => this.store.lostConnections(ROWS));
  }

  async nodes(): Promise<number> {
    return await this.store.nodes();
  }

  async #untilFew(statement: () => Promise<number>): Promise<number> {
    let total = 0;
    for (let gone = ROWS; gone === ROWS && !this.step.stopping; total += gone) gone = await statement();
    return total;
  }

  /** Goes on to the next page when no tenant of this one has more. */
  async #tenants(statement: (after: string) => Promise<Swept[]>): Promise<number> {
    let total = 0;
    for (let after: string | undefined = ''; after !== undefined && !this.step.stopping;) {
      const page: Swept[] = await statement(after);
      total += page.reduce((sum, { gone }) => sum + gone, 0);
      if (page.some(({ gone }) => gone === ROWS)) continue;
      after = page.length < TENANTS ? undefined : page.at(-1)?.tenantId;
    }
    return total;
  }
}
