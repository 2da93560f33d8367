import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { CLASS_WIDTHS, widthClassOf } from '../../src/receipts/intervals.ts';
import { asPosition } from '../../src/core/position.ts';

const position = fc.maxSafeNat().map(asPosition);

test('every interval has a level, and only those of its width class that end close behind a position can cover it', () => {
  fc.assert(
    fc.property(position, position, position, (a, b, x) => {
      const [from, to] = a < b ? [a, b] : [b, a];
      fc.pre(from < to);
      const level = widthClassOf(from, to);
      const width = CLASS_WIDTHS[level];
      if (width === undefined) throw new Error(`no level for (${from}, ${to}]`);
      // What history relies on when it looks for the intervals over x.
      if (from < x && x <= to) expect(to - x).toBeLessThan(width);
    }),
  );
});

test('a level is the narrowest that fits', () => {
  for (const [level, width] of CLASS_WIDTHS.entries()) {
    expect(widthClassOf(asPosition(0), asPosition(Math.min(width, Number.MAX_SAFE_INTEGER)))).toBe(level);
    if (level > 0)
      expect(widthClassOf(asPosition(0), asPosition((CLASS_WIDTHS[level - 1] ?? 0) + 1))).toBe(level);
  }
});

test('levels reach as far as positions do', () => {
  expect(CLASS_WIDTHS.at(-1)).toBeGreaterThanOrEqual(Number.MAX_SAFE_INTEGER);
});
