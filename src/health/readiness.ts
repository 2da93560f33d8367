import { Inject, Injectable } from '@nestjs/common';
import { migrations } from '../../migrations/migrations.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { errorCode } from '../postgres/errors.ts';
import { VERSION } from '../core/version.ts';
import { Draining } from '../core/draining.ts';
import type { Ready } from './health.schema.ts';
import { HealthStore } from './health.store.ts';

/** How long one answer of the database serves every question, in ms: balancers ask often, and from many places. */
const FRESH_MS = 1_000;

/** TypeORM orders migrations by the 13 digits that end their name. */
const NEWEST_MIGRATION = Math.max(...migrations.map(({ name }) => Number(name.slice(-13))));

const UNDEFINED_TABLE = '42P01';

/**
 * Ready means: send me callers. A database that is away is *reported* and does not make the node unready: every node
 * would become unready at once, and the balancer's own 503 makes each browser's EventSource give up for ever.
 */
@Injectable()
export class Readiness {
  #migrated = false;
  #probe: { at: number; answer: Promise<Ready['database']> } | undefined;

  constructor(
    private readonly draining: Draining,
    private readonly store: HealthStore,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async report(): Promise<Ready> {
    const now = performance.now();
    if (this.#probe === undefined || now - this.#probe.at > FRESH_MS)
      this.#probe = { at: now, answer: this.#ask(now) };
    const database = await this.#probe.answer;
    return { status: this.#status(database), node: this.config.NODE_NAME, version: VERSION, database };
  }

  /** While the database is away nobody knows whether it is migrated; that alone turns no caller away. */
  #status(database: Ready['database']): Ready['status'] {
    if (this.draining.active) return 'draining';
    return this.#migrated || !database.reachable ? 'ready' : 'not-migrated';
  }

  async #ask(start: number): Promise<Ready['database']> {
    const took = () => Math.round((performance.now() - start) * 10) / 10;
    try {
      this.#migrated = (await this.store.lastMigration()) >= NEWEST_MIGRATION;
      return { reachable: true, milliseconds: took() };
    } catch (error) {
      const code = errorCode(error);
      if (code === UNDEFINED_TABLE) {
        this.#migrated = false;
        return { reachable: true, milliseconds: took() };
      }
      return { reachable: false, milliseconds: took(), ...(code === undefined ? {} : { error: code }) };
    }
  }
}
