import { expect, test } from '@jest/globals';
import { fullest, installationOf, installationsFor } from '../bench/scale/model.ts';
import { letIn, simulate, type Storm } from '../bench/scale/storm.ts';

/* What docs/explanation/scale.md is computed with. */

const STREAMS = 10_000;
const after = (nodes: number, gone: Storm['gone']) =>
  simulate({ nodes, streamsPerNode: STREAMS, gone, seed: 7 });

test('one node that is left lets in what it can, until all are in', () => {
  const seconds = STREAMS / letIn(STREAMS);
  const { over, waited } = after(2, 'lost');
  // Nobody comes in the first second and a half.
  expect(over - 1.5).toBeGreaterThanOrEqual(seconds);
  expect(over - 1.5).toBeLessThan(seconds * 1.01);
  // The last of them came after four seconds and a half.
  expect(waited).toBeCloseTo(over - 4.5, 1);
});

test('with the same seed the same storm, and with more nodes a smaller one', () => {
  expect(after(5, 'stopped')).toEqual(after(5, 'stopped'));
  const asked = [2, 3, 5, 10, 20].map((nodes) => after(nodes, 'lost').asked);
  expect(asked).toEqual(asked.toSorted((a, b) => b - a));
  // Each of them comes, and in three seconds: a third in one, and not much more.
  expect(asked[0]).toBeGreaterThan(STREAMS / 3);
  expect(asked[0]).toBeLessThan(STREAMS / 2.7);
});

test('of a node that is stopped a single other one lets everybody in who comes', () => {
  expect(after(2, 'stopped').waited).toBeLessThan(0.1);
});

test('installations are as many as it takes, and no more', () => {
  for (const streams of [1e3, 1e6, 1e7, 1e8]) {
    const { count, each } = installationsFor(streams);
    expect(each.use[fullest(each)]).toBeLessThanOrEqual(1);
    expect(each.streams * count).toBeCloseTo(streams, 3);
    if (count === 1) continue;
    const fewer = installationOf(streams / (count - 1));
    expect(fewer.use[fullest(fewer)]).toBeGreaterThan(1);
  }
});
