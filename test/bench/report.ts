import { judge, median, type Budget, type Figure } from './figures.ts';
import type { SystemName } from './systems/system.ts';
import { format, nameOf, type Workload } from './workloads/workload.ts';

/** What a run found of one workload. */
export interface Result extends Pick<Workload, 'name' | 'does'> {
  readonly figures: readonly Figure[];
}

const HEAD = ['workload', 'figure', 'Tidings', 'beside', '', 'ratio', 'budget', 'met'];

/** One table, as Markdown. A figure is the median of the rounds, with the lowest and the highest of them. */
export function table(results: readonly Result[]): string {
  const rows = results.flatMap(({ name, figures }) => figures.flatMap((figure) => rowsOf(name, figure)));
  const widths = HEAD.map((head, n) => Math.max(head.length, ...rows.map((row) => row[n]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, n) => cell.padEnd(widths[n] ?? 0)).join(' | ')} |`;
  return [line(HEAD), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

/** A row for each budget, and one for each other system that has none. */
function rowsOf(workload: string, figure: Figure): string[][] {
  const { unit, rounds, budgets } = figure;
  const others = (Object.keys(rounds) as SystemName[]).filter(
    (system) => system !== 'tidings' && !budgets.some(({ than }) => than === system),
  );
  const lines: Budget[] = [...budgets, ...others.map((than) => ({ than }))];
  if (lines.length === 0) lines.push({});
  return lines.map((budget, n) => {
    const { than } = budget;
    const verdict = judge(figure, budget);
    const measured = !Number.isNaN(verdict.value);
    const bounded = budget.most !== undefined || budget.least !== undefined;
    return [
      n === 0 ? workload : '',
      n === 0 ? `${nameOf(figure)}, ${unit}` : '',
      n === 0 ? spread(rounds.tidings ?? []) : '',
      than ?? '',
      than === undefined ? '' : spread(rounds[than] ?? []),
      than === undefined || !measured
        ? ''
        : `${format(verdict.value)} (${format(verdict.lowest)}-${format(verdict.highest)})`,
      bounded ? textOf(budget) : '',
      bounded && measured ? (verdict.met ? 'yes' : 'no') : '',
    ];
  });
}

function spread(values: readonly number[]): string {
  if (values.length === 0) return '';
  return `${format(median(values))} (${format(Math.min(...values))}-${format(Math.max(...values))})`;
}

function textOf({ than, most, least }: Budget): string {
  const bound = most === undefined ? `at least ${format(least)}` : `at most ${format(most)}`;
  return than === undefined ? bound : `${bound} x`;
}
