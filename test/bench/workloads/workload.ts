import type { Budget, Figure, Size } from '../figures.ts';
import type { Running, System, SystemName } from '../systems/system.ts';

/** What is measured in each round. */
interface Measured {
  readonly name: string;
  readonly unit: string;
  readonly at?: Size;
  readonly budgets: readonly Budget[];
}

/** One row of work that is done by several systems in turn, and what is measured of it. */
export interface Workload {
  readonly name: string;
  /** What is done, in a line. */
  readonly does: string;
  readonly systems: readonly SystemName[];
  /** Nothing of it can be measured of a server whose processes are elsewhere. */
  readonly needsProcess?: boolean;
  readonly figures: readonly Measured[];
  /** One round of one system, from its start to its stop: a figure for each of `figures`; undefined: it has no such. */
  measure(system: System, running: Running): Promise<readonly (number | undefined)[]>;
  /** What Tidings is told beside its defaults, and its PostgreSQL. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly parameters?: Readonly<Record<string, string>>;
}

/** The same figures at one size after the other. */
export const atEach = (
  of: string,
  values: readonly number[],
  figures: readonly Omit<Measured, 'at'>[],
): Measured[] => values.flatMap((value) => figures.map((figure) => ({ ...figure, at: { value, of } })));

export type Report = (line: string) => void;

/** A B C, A B C, ...: what is compared is measured in turns, each time on a server that was just started. */
export async function run(
  workload: Workload,
  systems: readonly System[],
  rounds: number,
  report: Report,
): Promise<Figure[]> {
  const figures = workload.figures.map((figure) => ({
    ...figure,
    rounds: {} as Partial<Record<SystemName, number[]>>,
  }));
  for (let round = 1; round <= rounds; round += 1)
    for (const system of systems) {
      const began = performance.now();
      const running = await system.start(workload.settings, workload.parameters);
      const values = await measure(workload, system, running);
      const seconds = ((performance.now() - began) / 1_000).toFixed(0);
      const said = figures
        .map((figure, n) => `${nameOf(figure)} ${format(values[n])} ${figure.unit}`)
        .join(', ');
      report(`${workload.name} ${round}/${rounds} ${system.name}: ${said} (${seconds} s)`);
      figures.forEach((figure, n) => {
        const value = values[n];
        if (value !== undefined) (figure.rounds[system.name] ??= []).push(value);
      });
    }
  return figures;
}

async function measure(workload: Workload, system: System, running: Running) {
  try {
    const values = await workload.measure(system, running);
    return values.map((value) => (Number.isNaN(value) ? undefined : value));
  } finally {
    await running.stop();
  }
}

/** With the size that it was measured at. */
export const nameOf = ({ name, at }: Pick<Measured, 'name' | 'at'>): string =>
  at === undefined ? name : `${name} at ${at.value.toLocaleString('en')} ${at.of}`;

/** Three figures are more than any of this is exact to. */
export const format = (value: number | undefined): string =>
  value === undefined ? '-' : String(Number(value.toPrecision(3)));
