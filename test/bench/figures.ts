import type { SystemName } from './systems/system.ts';

/** A quantity that a workload measures of each system, once in every round. */
export interface Figure {
  readonly name: string;
  readonly unit: string;
  /** What it was measured at, where it is measured to see how it grows. */
  readonly at?: Size;
  /** By system; the n-th of one was measured right beside the n-th of another. */
  readonly rounds: Partial<Record<SystemName, readonly number[]>>;
  readonly budgets: readonly Budget[];
}

/** How much there is of something, such as 10,000 connections. */
export interface Size {
  readonly value: number;
  readonly of: string;
}

/** What Tidings may cost, or has to reach: beside another system, or by itself. */
export interface Budget {
  readonly than?: SystemName;
  readonly most?: number;
  readonly least?: number;
}

/** What came of a budget. */
export interface Verdict {
  /** The median of Tidings' figures, or of the ratios of its figures to those beside them. */
  readonly value: number;
  readonly lowest: number;
  readonly highest: number;
  readonly met: boolean;
}

export function judge({ rounds }: Figure, { than, most = Infinity, least = -Infinity }: Budget): Verdict {
  const own = rounds.tidings ?? [];
  const values = than === undefined ? own : ratios(own, rounds[than] ?? []);
  const value = median(values);
  return {
    value,
    lowest: Math.min(...values),
    highest: Math.max(...values),
    met: value <= most && value >= least,
  };
}

const ratios = (of: readonly number[], to: readonly number[]): number[] =>
  of.flatMap((value, n) => {
    const other = to[n];
    return other === undefined ? [] : [value / other];
  });

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low = Number.NaN, high = Number.NaN] = [sorted[(sorted.length - 1) >> 1], sorted[middle]];
  return (low + high) / 2;
}
