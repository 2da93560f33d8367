import { expect, test } from '@jest/globals';
import { InFlight } from '../../src/concurrency/pacing.ts';

/** Work that ends when it is told to. */
function work() {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  return { promise, resolve, reject };
}

test('what is under way of a key is waited for, however it ends, and what begins later is not', async () => {
  const inFlight = new InFlight<string>();
  const [first, second, later, other] = [work(), work(), work(), work()];
  const tracked = [inFlight.track('a', first.promise), inFlight.track('a', second.promise)];
  void inFlight.track('b', other.promise);
  let settled = false;
  const waiting = (async () => {
    await inFlight.settled('a');
    settled = true;
  })();
  void inFlight.track('a', later.promise);
  first.resolve('done');
  expect(await tracked[0]).toBe('done');
  expect(settled).toBe(false);
  second.reject(new Error('failed'));
  await expect(tracked[1]).rejects.toThrow('failed');
  await waiting;
  expect(settled).toBe(true);
});

test('nothing is waited for where nothing is under way (any more)', async () => {
  const inFlight = new InFlight<string>();
  await inFlight.settled('a');
  await inFlight.track('a', Promise.resolve(1));
  await inFlight.settled('a');
});
