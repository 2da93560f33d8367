import { expect, test } from '@jest/globals';
import { Heartbeat } from '../../src/delivery/connection.ts';

/** The seconds, from 1, in which a heartbeat is due. `written`: before which looks a notification is written. */
function due(heartbeat: Heartbeat, seconds: number, written: (second: number) => boolean = () => false) {
  return Array.from({ length: seconds }, (_, n) => n + 1).filter((second) => {
    if (written(second)) heartbeat.written();
    return heartbeat.isDue();
  });
}

test('comes every so many seconds of silence, for each stream at another time', () => {
  const firsts = new Set<number>();
  for (let n = 0; n < 300; n += 1) {
    const [first = NaN, second = NaN, ...more] = due(new Heartbeat(15), 40);
    expect(first).toBeGreaterThanOrEqual(1);
    expect(first).toBeLessThanOrEqual(15);
    expect(second - first).toBe(15);
    for (const [k, at] of more.entries()) expect(at).toBe(second + 15 * (k + 1));
    firsts.add(first);
  }
  expect(firsts.size).toBe(15);
});

test('comes not while notifications come', () => {
  expect(due(new Heartbeat(2), 60, () => true)).toEqual([]);
});

test('comes in time after what was written to all, and not to all at once', () => {
  const at = new Map<number, number>();
  for (let n = 0; n < 300; n += 1) {
    const [first = NaN] = due(new Heartbeat(15), 40, (second) => second === 1).map((second) => second - 1);
    expect(first).toBeGreaterThanOrEqual(7);
    expect(first).toBeLessThanOrEqual(15);
    at.set(first, (at.get(first) ?? 0) + 1);
  }
  expect(at.size).toBeGreaterThan(5);
  // About 53 at most by chance; 140 if those that were due soonest were put off by the same time.
  expect(Math.max(...at.values())).toBeLessThan(100);
});
