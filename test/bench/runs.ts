import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Figure } from './figures.ts';
import { picturesOf } from './pictures.ts';
import type { Result } from './report.ts';
import type { Stalls } from './stalls.ts';
import { SYSTEMS, type SystemName } from './systems/system.ts';
import { nameOf } from './workloads/workload.ts';

/** What a run leaves behind. */
export interface Run {
  /** When it began, ISO 8601. */
  readonly at: string;
  readonly machine: {
    readonly cpu: string | undefined;
    readonly cpus: number;
    readonly memory: number;
    readonly node: string;
    readonly stalls: Stalls;
  };
  /** When each system answers a publish. */
  readonly contracts: Readonly<Record<string, string>>;
  /** Of runs whose rounds were put together: when they began. */
  readonly of?: readonly string[];
  readonly results: readonly Result[];
}

/** Where runs are left, in a folder each. */
const RESULTS = resolve(import.meta.dirname, '../../bench-results');

const FIGURES = 'figures.json';

/** All figures as JSON, and pictures of those that were measured at several sizes. Answers the folder, which is named by when the run began. */
export async function save(run: Run, among = RESULTS): Promise<string> {
  const folder = join(among, run.at.replaceAll(':', '-'));
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, FIGURES), JSON.stringify(run, null, 1));
  for (const { name, svg } of picturesOf(run.results)) await writeFile(join(folder, `${name}.svg`), svg);
  return folder;
}

/** @throws when there is no run in the folder */
export async function load(folder: string): Promise<Run> {
  return JSON.parse(await readFile(join(folder, FIGURES), 'utf8')) as Run;
}

/**
 * The rounds of several runs as those of one.
 *
 * @throws when two of them measured other figures, or other systems, of one workload: a ratio is of neighbours
 */
export function together(runs: readonly Run[]): Result[] {
  const results = runs.flatMap((run) => run.results);
  return [...Map.groupBy(results, ({ name }) => name).values()].map((same) => same.reduce(joined));
}

function joined(one: Result, other: Result): Result {
  const signatures = [one, other].map(({ figures }) => JSON.stringify(figures.map(signatureOf)));
  if (signatures[0] !== signatures[1])
    throw new Error(`These runs measured other figures, or other systems, of ${one.name}.`);
  const figures = one.figures.map((figure, n): Figure => {
    const rounds: Partial<Record<SystemName, readonly number[]>> = {};
    for (const system of SYSTEMS) {
      const values = figure.rounds[system];
      if (values !== undefined) rounds[system] = [...values, ...(other.figures[n]?.rounds[system] ?? [])];
    }
    return { ...figure, rounds };
  });
  return { ...one, figures };
}

const signatureOf = (figure: Figure) => [nameOf(figure), figure.unit, Object.keys(figure.rounds).sort()];
