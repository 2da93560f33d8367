import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { Problem } from '../core/errors.ts';
import { Draining } from '../core/draining.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import {
  ConnectionsStore,
  type ConnectionPlace,
  type ConnectionRecord,
} from '../history/connections.store.ts';
import { HistoryService, itemJson } from '../history/history.service.ts';
import { ExportStore } from './export.store.ts';

const NOTIFICATIONS = 200;
const CONNECTIONS = 1_000;

/** Everything that is stored of a user, as lines of JSON. */
@Injectable()
export class Exports {
  /** By tenant: resolves when its next page may be read. */
  readonly #rests = new Map<TenantId, Promise<void>>();

  constructor(
    private readonly history: HistoryService,
    private readonly connections: ConnectionsStore,
    private readonly store: ExportStore,
    private readonly draining: Draining,
  ) {}

  /** Each is the text of some whole lines, or empty. Throws the database's error, or Problem `draining`. */
  async *lines(tenantId: TenantId, user: UserId): AsyncGenerator<string> {
    const pages = this.#pages(tenantId, user);
    try {
      for (;;) {
        const { value: lines, done } = await this.#inTurn(tenantId, () => pages.next());
        if (done === true) return;
        if (this.draining.active)
          throw new Problem('draining', 'This node is shutting down.', { retryAfter: 1 });
        yield lines.map((line) => `${line}\n`).join('');
      }
    } finally {
      // Also when the reader left.
      await pages.return(undefined);
    }
  }

  /**
   * One page of a tenant at a time, and then a rest of the same length: nobody waits for an export as others wait for their
   * publishes, and eight at once, read as fast as they come, doubled the time that those take.
   */
  async #inTurn<Result>(tenantId: TenantId, read: () => Promise<Result>): Promise<Result> {
    const before = this.#rests.get(tenantId) ?? Promise.resolve();
    let began = 0;
    const result = before.then(() => {
      began = performance.now();
      return read();
    });
    const rest = result
      .then(
        () => sleep(performance.now() - began),
        () => undefined,
      )
      .finally(() => {
        if (this.#rests.get(tenantId) === rest) this.#rests.delete(tenantId);
      });
    this.#rests.set(tenantId, rest);
    return await result;
  }

  async *#pages(tenantId: TenantId, user: UserId): AsyncGenerator<readonly string[]> {
    let before: Position | undefined;
    do {
      const { items, next } = await this.history.page(tenantId, { user }, before, NOTIFICATIONS);
      yield items.map((item) => `{"kind":"notification",${itemJson(item).slice(1)}`);
      before = next;
    } while (before !== undefined);

    let after: ConnectionPlace | undefined;
    const always = { since: undefined, until: undefined };
    do {
      const { items, reached } = await this.connections.page(tenantId, user, always, after, CONNECTIONS);
      yield items.map((item) => JSON.stringify(lineOf(item)));
      after = reached;
    } while (after !== undefined);

    for await (const rows of this.store.rest(tenantId, user)) yield rows.map((row) => JSON.stringify(row));
  }
}

function lineOf({ connectionId, device, node, since, until, position, reason, topics }: ConnectionRecord) {
  return {
    kind: 'connection',
    connectionId,
    device,
    node,
    since,
    until,
    position: String(position),
    reason,
    topics,
  };
}
