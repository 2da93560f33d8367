import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { Gather, GatherByKey } from '../../src/gather.ts';

/** A server whose rounds a test ends by hand. */
function byHand() {
  const rounds: { asks: readonly number[]; answer: () => void; fail: (error: Error) => void }[] = [];
  const gather = new Gather<number, string>(
    (asks) =>
      new Promise((resolve, reject) => {
        rounds.push({ asks, answer: () => resolve(asks.map((ask) => `answer to ${ask}`)), fail: reject });
      }),
    3,
  );
  return { gather, rounds };
}

test('those who ask in the same turn, and those who come meanwhile, share a round each', async () => {
  const { gather, rounds } = byHand();
  const first = [gather.ask(1), gather.ask(2)];
  await setImmediate();
  const second = [gather.ask(3), gather.ask(4)];
  await setImmediate();
  expect(rounds.map(({ asks }) => asks)).toEqual([[1, 2]]);
  rounds[0]?.answer();
  expect(await Promise.all(first)).toEqual(['answer to 1', 'answer to 2']);
  expect(rounds.map(({ asks }) => asks)).toEqual([
    [1, 2],
    [3, 4],
  ]);
  expect(gather.idle).toBe(false);
  rounds[1]?.answer();
  expect(await Promise.all(second)).toEqual(['answer to 3', 'answer to 4']);
  expect(gather.idle).toBe(true);
});

test('a round holds no more than it may', async () => {
  const { gather, rounds } = byHand();
  const asked = [1, 2, 3, 4, 5].map((ask) => gather.ask(ask));
  await setImmediate();
  expect(rounds.map(({ asks }) => asks)).toEqual([[1, 2, 3]]);
  rounds[0]?.answer();
  await Promise.all(asked.slice(0, 3));
  rounds[1]?.answer();
  expect(await Promise.all(asked)).toHaveLength(5);
});

test('a round that fails is the failure of its askers alone', async () => {
  const { gather, rounds } = byHand();
  const unlucky = gather.ask(1);
  await setImmediate();
  const next = gather.ask(2);
  rounds[0]?.fail(new Error('the database is away'));
  await expect(unlucky).rejects.toThrow('the database is away');
  await setImmediate();
  rounds[1]?.answer();
  expect(await next).toBe('answer to 2');
});

test('an ask without an answer fails and does not wait for ever', async () => {
  const gather = new Gather<number, string>((asks) => Promise.resolve(asks.slice(1).map(String)), 10);
  const [one, two] = await Promise.allSettled([gather.ask(1), gather.ask(2)]);
  expect(one).toEqual({ status: 'fulfilled', value: '2' });
  expect(two?.status).toBe('rejected');
});

test('everybody gets their own answer, however they arrive', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat({ max: 3 }), { maxLength: 30 }),
      fc.integer({ min: 1, max: 5 }),
      async (delays, atOnce) => {
        const gather = new Gather<number, number>(async (asks) => {
          await setImmediate();
          return asks.map((ask) => ask * 2);
        }, atOnce);
        const answers = await Promise.all(
          delays.map(async (delay, index) => {
            await sleep(delay);
            return await gather.ask(index);
          }),
        );
        expect(answers).toEqual(delays.map((_, index) => index * 2));
        expect(gather.idle).toBe(true);
      },
    ),
    { numRuns: 30 },
  );
});

test('each key has its rounds, and its count goes back to none', async () => {
  const rounds: [string, readonly number[]][] = [];
  const gathers = new GatherByKey<string, number, number>((key, asks) => {
    rounds.push([key, asks]);
    return Promise.resolve(asks);
  }, 10);
  const answers = [gathers.ask('a', 1), gathers.ask('b', 2), gathers.ask('a', 3)];
  expect([gathers.pending('a'), gathers.pending('b'), gathers.pending('c')]).toEqual([2, 1, 0]);
  expect(await Promise.all(answers)).toEqual([1, 2, 3]);
  expect(rounds).toEqual([
    ['a', [1, 3]],
    ['b', [2]],
  ]);
  expect([gathers.pending('a'), gathers.pending('b')]).toEqual([0, 0]);
});
