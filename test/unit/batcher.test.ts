import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { Batcher, KeyedBatcher, type BatcherOptions } from '../../src/concurrency/batcher.ts';
import { eventually } from '../support/eventually.ts';

/** By which crowds are known. It stands still, however long something takes; timers go on. */
let now: number;
beforeEach(() => {
  now = 1_000;
  jest.spyOn(performance, 'now').mockImplementation(() => now);
});
afterEach(() => {
  jest.restoreAllMocks();
});

/** A server whose rounds a test ends by hand. */
function byHand(options: BatcherOptions = { atOnce: 3 }) {
  const rounds: { asks: readonly number[]; answer: () => void; fail: (error: Error) => void }[] = [];
  const gather = new Batcher<number, string>(
    (asks) =>
      new Promise((resolve, reject) => {
        rounds.push({ asks, answer: () => resolve(asks.map((ask) => `answer to ${ask}`)), fail: reject });
      }),
    options,
  );
  return { gather, rounds };
}

test('those who ask in the same turn, and those who come meanwhile, share a round each', async () => {
  const { gather, rounds } = byHand();
  const first = [gather.request(1), gather.request(2)];
  await setImmediate();
  const second = [gather.request(3), gather.request(4)];
  await setImmediate();
  expect(rounds.map(({ asks }) => asks)).toEqual([[1, 2]]);
  rounds[0]?.answer();
  expect(await Promise.all(first)).toEqual(['answer to 1', 'answer to 2']);
  expect(rounds.map(({ asks }) => asks)).toEqual([
    [1, 2],
    [3, 4],
  ]);
  expect(gather.pending).toBe(2);
  rounds[1]?.answer();
  expect(await Promise.all(second)).toEqual(['answer to 3', 'answer to 4']);
  expect(gather.pending).toBe(0);
});

test('a round holds no more than it may', async () => {
  const { gather, rounds } = byHand();
  const asked = [1, 2, 3, 4, 5].map((ask) => gather.request(ask));
  await setImmediate();
  expect(rounds.map(({ asks }) => asks)).toEqual([[1, 2, 3]]);
  rounds[0]?.answer();
  await Promise.all(asked.slice(0, 3));
  rounds[1]?.answer();
  expect(await Promise.all(asked)).toHaveLength(5);
});

describe('once a crowd has come', () => {
  const CROWD = Array.from({ length: 32 }, (_, n) => n);

  async function crowd() {
    const { gather, rounds } = byHand({ atOnce: 40, collectsMs: 1_000 });
    const all = Promise.all(CROWD.map((ask) => gather.request(ask)));
    await eventually(() => expect(rounds.map(({ asks }) => asks)).toEqual([CROWD]));
    rounds[0]?.answer();
    await all;
    return { gather, rounds };
  }

  test('those who come within a moment share a round', async () => {
    const { gather, rounds } = await crowd();
    const one = gather.request(101);
    await sleep(20);
    const other = gather.request(102);
    await eventually(() => expect(rounds.map(({ asks }) => asks)).toEqual([CROWD, [101, 102]]));
    rounds[1]?.answer();
    expect(await Promise.all([one, other])).toEqual(['answer to 101', 'answer to 102']);
  });

  test('a round that is full waits for nobody', async () => {
    const { gather, rounds } = await crowd();
    const asked = Array.from({ length: 40 }, (_, n) => gather.request(n));
    await setImmediate();
    expect(rounds.map(({ asks }) => asks.length)).toEqual([32, 40]);
    rounds[1]?.answer();
    await Promise.all(asked);
  });

  test('and stayed away for a while, a lone asker waits for nobody again', async () => {
    const { gather, rounds } = await crowd();
    now += 999;
    expect(gather.burstFor).toBe(1);
    now += 1;
    expect(gather.burstFor).toBe(0);
    const lone = gather.request(101);
    await setImmediate();
    expect(rounds.map(({ asks }) => asks)).toEqual([CROWD, [101]]);
    rounds[1]?.answer();
    await lone;
  });
});

test('a crowd is known by how many come, however small its rounds are', async () => {
  const rounds: number[] = [];
  const gathers = new KeyedBatcher<string, number, number>(
    (_, asks) => {
      rounds.push(asks.length);
      return Promise.resolve(asks);
    },
    { atOnce: 100, collectsMs: 1_000 },
  );
  // Between two of them nobody asks any more.
  for (let n = 0; n < 32; n += 1) await gathers.request('a', n);
  const one = gathers.request('a', 32);
  await sleep(20);
  await Promise.all([one, gathers.request('a', 33)]);
  expect(rounds).toEqual([...Array.from({ length: 31 }, () => 1), 1, 2]);
});

test('a round that fails is the failure of its askers alone', async () => {
  const { gather, rounds } = byHand();
  const unlucky = gather.request(1);
  await setImmediate();
  const next = gather.request(2);
  rounds[0]?.fail(new Error('the database is away'));
  await expect(unlucky).rejects.toThrow('the database is away');
  await setImmediate();
  rounds[1]?.answer();
  expect(await next).toBe('answer to 2');
});

test('an ask without an answer fails and does not wait for ever', async () => {
  const gather = new Batcher<number, string>((asks) => Promise.resolve(asks.slice(1).map(String)), {
    atOnce: 10,
  });
  const [one, two] = await Promise.allSettled([gather.request(1), gather.request(2)]);
  expect(one).toEqual({ status: 'fulfilled', value: '2' });
  expect(two?.status).toBe('rejected');
});

test('everybody gets their own answer, however they arrive', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat({ max: 3 }), { maxLength: 30 }),
      fc.integer({ min: 1, max: 5 }),
      async (delays, atOnce) => {
        const gather = new Batcher<number, number>(
          async (asks) => {
            await setImmediate();
            return asks.map((ask) => ask * 2);
          },
          { atOnce },
        );
        const answers = await Promise.all(
          delays.map(async (delay, index) => {
            await sleep(delay);
            return await gather.request(index);
          }),
        );
        expect(answers).toEqual(delays.map((_, index) => index * 2));
        expect(gather.pending).toBe(0);
      },
    ),
    { numRuns: 30 },
  );
});

test('each key has its rounds, and its count goes back to none', async () => {
  const rounds: [string, readonly number[]][] = [];
  const gathers = new KeyedBatcher<string, number, number>(
    (key, asks) => {
      rounds.push([key, asks]);
      return Promise.resolve(asks);
    },
    { atOnce: 10 },
  );
  const answers = [gathers.request('a', 1), gathers.request('b', 2), gathers.request('a', 3)];
  expect([gathers.pending('a'), gathers.pending('b'), gathers.pending('c')]).toEqual([2, 1, 0]);
  expect(await Promise.all(answers)).toEqual([1, 2, 3]);
  expect(rounds).toEqual([
    ['a', [1, 3]],
    ['b', [2]],
  ]);
  expect([gathers.pending('a'), gathers.pending('b')]).toEqual([0, 0]);
});
