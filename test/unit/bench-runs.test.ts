import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { Figure } from '../bench/figures.ts';
import { load, save, together, type Run } from '../bench/runs.ts';

const figure = (rounds: Figure['rounds'], name = 'CPU'): Figure => ({
  name,
  unit: 'µs',
  rounds,
  budgets: [],
});

const runOf = (at: string, results: Record<string, Figure[]>): Run => ({
  at,
  machine: {
    cpu: 'c',
    cpus: 2,
    memory: 1,
    node: 'v24',
    stalls: { seconds: 1, count: 0, longestMs: 0, sumMs: 0 },
  },
  contracts: {},
  results: Object.entries(results).map(([name, figures]) => ({ name, does: '', figures })),
});

describe('runs of the benchmark', () => {
  test('count as the rounds of one, where they measured the same', () => {
    const one = runOf('1', { fanout: [figure({ tidings: [1, 2], nchan: [3, 4] })] });
    const other = runOf('2', {
      fanout: [figure({ nchan: [6], tidings: [5] })],
      live: [figure({ tidings: [7] })],
    });
    expect(together([one, other])).toMatchObject([
      { name: 'fanout', figures: [{ rounds: { tidings: [1, 2, 5], nchan: [3, 4, 6] } }] },
      { name: 'live', figures: [{ rounds: { tidings: [7] } }] },
    ]);
  });

  test('are not put together where neighbours would be of different rounds', () => {
    const one = runOf('1', { fanout: [figure({ tidings: [1], nchan: [3] })] });
    for (const figures of [[figure({ tidings: [5] })], [figure({ tidings: [5], nchan: [6] }, 'p99')], []])
      expect(() => together([one, runOf('2', { fanout: figures })])).toThrow('of fanout');
  });

  test('are read again as they were left, with a picture of what was measured at several sizes', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tidings-runs-'));
    try {
      const sizes = [10, 100].map((value) => ({
        ...figure({ tidings: [value] }),
        at: { value, of: 'streams' },
      }));
      const run = runOf('1', { connections: sizes });
      const left = await save(run, folder);
      expect(await load(left)).toEqual(run);
      expect(readdirSync(left).sort()).toEqual(['connections-cpu.svg', 'figures.json']);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
