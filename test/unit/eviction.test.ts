import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { Subject } from 'rxjs';
import { DatabaseClock } from '../../src/postgres/clock.ts';
import { tenantIdSchema, userIdSchema } from '../../src/core/identifiers.ts';
import { Eviction } from '../../src/delivery/eviction.ts';

/* When a node counts the streams of a user of whom it was told that he may have too many. */

const NOW = 1_000_000;
const FLUSH_MS = 250;

beforeEach(() => {
  jest.useFakeTimers({ now: NOW });
});
afterEach(() => {
  jest.useRealTimers();
});

/** A node with a stream of the user; `counts` are the moments at which it asked the database for all of them. */
function node() {
  const counts: number[] = [];
  const clock = new DatabaseClock();
  const parts = {
    store: {
      crowded: () => {
        counts.push(clock.now() - NOW);
        return Promise.resolve([]);
      },
    },
    commands: { received: new Subject() },
    receipts: { recorded: new Subject() },
    tenants: { changed: new Subject(), limits: () => ({ connectionsPerUser: 1 }) },
    hubs: { ofUser: () => [{}] },
    config: { RECEIPTS_FLUSH_MS: FLUSH_MS },
  };
  const { store, commands, receipts, tenants, hubs, config } = parts as unknown as Record<
    keyof typeof parts,
    never
  >;
  const eviction = new Eviction(store, {} as never, commands, receipts, tenants, hubs, clock, config);
  eviction.onModuleInit();
  const order = (ago: number) =>
    eviction.reconcile({
      kind: 'reconcile',
      id: '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70',
      tenantId: tenantIdSchema.parse('acme'),
      user: userIdSchema.parse('alice'),
      at: NOW - ago,
    });
  return { eviction, counts, order };
}

test.each([
  ['just now', 0],
  ['by a node of which it hears late', 500],
])('when every node has had the time to write down what ended before the order, given %s', (_, ago) => {
  const { eviction, counts, order } = node();
  order(ago);
  jest.advanceTimersByTime(10_000);
  expect(counts).toHaveLength(1);
  // Orders that come within 50 ms share a statement.
  expect(counts[0]).toBeGreaterThanOrEqual(FLUSH_MS + 400 - ago);
  expect(counts[0]).toBeLessThanOrEqual(FLUSH_MS + 400 + 50 - ago);
  eviction.onModuleDestroy();
});
