import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Quota, type Rate } from '../../src/log/account.ts';

const RATE: Rate = { notificationsPerSecond: 10, burst: 50 };
const empty = (spent: number, at = 0) => new Quota({ spent, storedBytes: 0 }, at);

describe('what is left of the burst', () => {
  test('is all of it for a tenant that has spent nothing, and never more', () => {
    expect(empty(0).left(RATE, 0)).toBe(50);
    expect(empty(0).left(RATE, 1e9)).toBe(50);
    expect(empty(20).left(RATE, 1e9)).toBe(50);
  });

  test('comes back with the rate', () => {
    const account = empty(50);
    expect([0, 100, 1_000, 5_000].map((now) => account.left(RATE, now))).toEqual([0, 1, 10, 50]);
    expect([1, 10, 50].map((n) => account.waitFor(n, RATE, 0))).toEqual([100, 1_000, 5_000]);
    expect(account.waitFor(10, RATE, 1_000)).toBe(0);
  });

  test('is a debt when other nodes spent too much, which is paid off before anything is admitted', () => {
    const account = empty(90);
    expect(account.left(RATE, 0)).toBe(-40);
    expect(account.waitFor(1, RATE, 0)).toBe(4_100);
  });

  test('goes by the limits of the moment, also back in time', () => {
    const account = empty(50);
    expect(account.left({ notificationsPerSecond: 100, burst: 60 }, 100)).toBe(20);
    expect(account.left({ notificationsPerSecond: 10, burst: 5 }, 1_000)).toBe(-35);
  });

  test('does not grow when the clock of the process stands before the answer', () => {
    expect(empty(50, 1_000).left(RATE, 0)).toBe(0);
  });
});

describe('what was admitted', () => {
  test('counts until it is released, and is released once', () => {
    const account = empty(0);
    const release = account.reserve(30, 0);
    account.reserve(5, 0);
    expect(account.left(RATE, 1e9)).toBe(15);
    release();
    release();
    expect(account.left(RATE, 1e9)).toBe(45);
  });

  test('takes room, too', () => {
    const account = new Quota({ spent: 0, storedBytes: 60 }, 0);
    expect([40, 41].map((bytes) => account.hasRoom(bytes, { storedBytes: 100 }))).toEqual([true, false]);
    const release = account.reserve(1, 30);
    expect([10, 11].map((bytes) => account.hasRoom(bytes, { storedBytes: 100 }))).toEqual([true, false]);
    release();
    expect(account.hasRoom(40, { storedBytes: 100 })).toBe(true);
  });
});

/** The account as the append statement charges it (log/append.store.ts). */
class Database {
  spent = 0;
  at = 0;

  charge(n: number, rate: number, now: number): void {
    this.spent = this.spentAt(rate, now) + n;
    this.at = now;
  }

  spentAt(rate: number, now: number): number {
    return Math.max(0, this.spent - (rate * (now - this.at)) / 1000);
  }
}

/** A node: what it admitted and has not appended, and the answers that are on their way to it. */
class Node {
  account: Quota;
  queue: (() => void)[] = [];
  queued = 0;
  answer: { releases: (() => void)[]; spent: number } | undefined;

  constructor(
    private readonly database: Database,
    rate: Rate,
    now: number,
  ) {
    this.account = new Quota(
      { spent: database.spentAt(rate.notificationsPerSecond, now), storedBytes: 0 },
      now,
    );
  }

  publish(n: number, rate: Rate, now: number): boolean {
    if (this.account.waitFor(n, rate, now) > 0) return false;
    this.queue.push(this.account.reserve(n, 0));
    this.queued += n;
    return true;
  }

  /** One append at a time; the answer is heard later. Returns what it charged. */
  append(rate: Rate, now: number): number {
    if (this.answer !== undefined || this.queued === 0) return 0;
    const n = this.queued;
    this.database.charge(n, rate.notificationsPerSecond, now);
    this.answer = { releases: this.queue, spent: this.database.spent };
    this.queue = [];
    this.queued = 0;
    return n;
  }

  hear(now: number): void {
    this.answer?.releases.forEach((release) => release());
    if (this.answer !== undefined) this.account.learn({ spent: this.answer.spent, storedBytes: 0 }, now);
    this.answer = undefined;
  }
}

const step = fc.record({
  act: fc.constantFrom('publish', 'publish', 'publish', 'append', 'hear', 'restart'),
  node: fc.nat(4),
  n: fc.integer({ min: 1, max: 60 }),
  pause: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 200 }), fc.integer({ min: 0, max: 20_000 })),
});

describe.each([1, 2, 5])('%i nodes that charge one account', (count) => {
  const rate = fc.record({
    notificationsPerSecond: fc.integer({ min: 1, max: 1_000 }),
    burst: fc.integer({ min: 1, max: 100 }),
  });

  test('together let through no more than the rate and one burst for each of them, in whatever order', () => {
    fc.assert(
      fc.property(rate, fc.array(step, { maxLength: 300 }), (limits, steps) => {
        const database = new Database();
        const nodes = Array.from({ length: count }, () => new Node(database, limits, 0));
        let now = 0;
        let appended = 0;
        for (const { act, node: index, n, pause } of steps) {
          now += pause;
          const node = nodes[index % count];
          if (node === undefined) continue;
          if (act === 'publish') node.publish(n, limits, now);
          else if (act === 'append') appended += node.append(limits, now);
          else if (act === 'hear') node.hear(now);
          // A node that ends without a word: what it had admitted is gone, and what it charged is known to the next.
          else nodes[index % count] = new Node(database, limits, now);
          const allowed = count * limits.burst + (limits.notificationsPerSecond * now) / 1000;
          expect(appended).toBeLessThanOrEqual(allowed + 1e-6);
          expect(database.spent).toBeLessThanOrEqual(count * limits.burst + 1e-6);
        }
      }),
      { numRuns: 300 },
    );
  });

  test('let through the whole rate when they are asked for more', () => {
    const most = 10;
    fc.assert(
      fc.property(rate, fc.integer({ min: 1, max: most }), (limits, asked) => {
        const n = Math.min(asked, limits.burst);
        const database = new Database();
        const nodes = Array.from({ length: count }, () => new Node(database, limits, 0));
        // Each node is asked twice in the time in which the account pays for one request.
        const turn = (n / limits.notificationsPerSecond) * 500;
        const turns = 200 + 2 * count * limits.burst;
        let appended = 0;
        for (let i = 1; i <= turns; i += 1) {
          for (const node of nodes) {
            node.publish(n, limits, i * turn);
            appended += node.append(limits, i * turn);
            node.hear(i * turn);
          }
        }
        const paid = (limits.notificationsPerSecond * turns * turn) / 1000;
        // A request that is a rounding error early comes again half a turn later, at worst each time.
        expect(appended).toBeGreaterThanOrEqual(paid * 0.66);
      }),
      { numRuns: 100 },
    );
  });
});
