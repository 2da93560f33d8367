import { expect, jest, test } from '@jest/globals';
import { runChaos } from './suite/run.ts';
import { textOf } from './suite/report.ts';

/** A minute of faults, and what a busy machine adds. */
jest.setTimeout(1_800_000);

test('a minute of faults: nothing is lost, doubled, out of order, late, in other hands, or forgotten', async () => {
  const lines: string[] = [];
  const report = await runChaos({ minutes: 1, seed: 7, nodes: 3, bus: 'postgres', users: 20 }, (line) => {
    lines.push(line);
  });
  if (!report.balanced) throw new Error([...lines, textOf(report)].join('\n'));
  expect(report.published).toBeGreaterThan(0);
  expect(report.faults).not.toEqual([]);
});
