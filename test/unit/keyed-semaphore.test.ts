import { setImmediate } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { isNeverSent, isUnavailable } from '../../src/postgres/errors.ts';
import { KeyedSemaphore } from '../../src/concurrency/keyed-semaphore.ts';

/** Work that a test ends by hand. */
function byHand(turns: KeyedSemaphore<string>, key: string, begun: string[], name: string) {
  let end: () => void = () => undefined;
  const done = turns.run(key, async () => {
    begun.push(name);
    await new Promise<void>((resolve) => {
      end = resolve;
    });
  });
  return { done, end: () => end() };
}

test('a key has so much under way at once, the rest waits in its order, and another key does not wait', async () => {
  const turns = new KeyedSemaphore<string>(2, 60_000);
  const begun: string[] = [];
  const own = ['a1', 'a2', 'a3', 'a4'].map((name) => byHand(turns, 'a', begun, name));
  const other = byHand(turns, 'b', begun, 'b1');
  await setImmediate();
  expect(begun).toEqual(['a1', 'a2', 'b1']);
  own[1]?.end();
  await own[1]?.done;
  await setImmediate();
  expect(begun).toEqual(['a1', 'a2', 'b1', 'a3']);
  own[0]?.end();
  await own[0]?.done;
  await setImmediate();
  expect(begun).toEqual(['a1', 'a2', 'b1', 'a3', 'a4']);
  for (const work of [...own, other]) work.end();
  await Promise.all([...own, other].map(({ done }) => done));
});

test('work that fails gives its turn to the next', async () => {
  const turns = new KeyedSemaphore<string>(1, 60_000);
  const failed = turns.run('a', () => Promise.reject(new Error('broken')));
  const next = turns.run('a', () => Promise.resolve('done'));
  await expect(failed).rejects.toThrow('broken');
  expect(await next).toBe('done');
});

test('who waits too long is told so, as of a database that cannot be had, and keeps nobody from the turn', async () => {
  const turns = new KeyedSemaphore<string>(1, 20);
  const begun: string[] = [];
  const first = byHand(turns, 'a', begun, 'first');
  const late = turns.run('a', () => Promise.resolve('late'));
  const refused = await late.catch((error: unknown) => error);
  expect([isNeverSent(refused), isUnavailable(refused)]).toEqual([true, true]);
  first.end();
  await first.done;
  expect(await turns.run('a', () => Promise.resolve('after'))).toBe('after');
});
