import type { Position } from '../core/position.ts';

/*
 * The ledger stores intervals of positions, (from, to]. "Which intervals cover position x?" has no short answer in an
 * index on `to` alone: every later interval might reach back over x. So an interval carries the class of its width:
 * one of class C is narrower than CLASS_WIDTHS[C], hence only those with `to` in [x, x + CLASS_WIDTHS[C]) can
 * cover x, and since each class is at most four times as wide as its narrowest member, at least about a quarter of
 * the rows that are read are an answer.
 */
const NARROWEST = 2 ** 20; // about a quarter of a second: one flush
export const CLASS_WIDTHS: readonly number[] = Array.from(
  { length: 18 },
  (_, index) => NARROWEST * 4 ** index,
);

/** The width class of (from, to]. */
export function widthClassOf(from: Position, to: Position): number {
  const width = to - from;
  return CLASS_WIDTHS.findIndex((limit) => width <= limit);
}
