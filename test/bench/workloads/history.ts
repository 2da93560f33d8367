import type { Pages } from '../clients/pages.ts';
import type { Resumes } from '../clients/resumes.ts';
import { median } from '../figures.ts';
import { COMERS, fill, logOf, MISSED, MISSED_OF_ALL, type Log } from '../rows.ts';
import type { Running } from '../systems/system.ts';
import { withPrograms } from './load.ts';
import { atEach, type Workload } from './workload.ts';

const ROWS = [10_000, 1_000_000, 10_000_000];
const ROUNDS = 5;

const count = (rows: number): string => rows.toLocaleString('en');

/** What was measured of one log. */
interface Measured {
  readonly late: number;
  readonly far: number;
  readonly pages: number;
  /** The filter whose pages took longest, and how long. */
  readonly worst: number;
}

/** The same questions to a log of few rows, and to one of a thousand times as many. */
export const history: Workload = {
  name: 'history',
  does: `devices come back, and an operator asks for pages with each filter, of logs of ${ROWS.map(count).join(', ')} rows`,
  systems: ['tidings'],
  // Otherwise the fill writes whole pages to the write-ahead log again and again.
  parameters: { max_wal_size: '2GB' },
  figures: [
    ...atEach('rows', ROWS, [
      { name: `p50 of a resume, ${MISSED} behind`, unit: 'ms', budgets: [] },
      { name: 'p50 of a resume, all of the log behind', unit: 'ms', budgets: [] },
      { name: 'p95 of a page, all filters', unit: 'ms', budgets: [{ most: 50 }] },
      { name: 'p95 of a page, the worst filter', unit: 'ms', budgets: [] },
    ]),
    {
      name: `a resume of the longest log to one of the shortest, ${MISSED} behind`,
      unit: '',
      budgets: [{ most: 1.5 }],
    },
    { name: 'the same, all of the log behind', unit: '', budgets: [{ most: 1.5 }] },
  ],
  async measure(_, running) {
    const found: Measured[] = [];
    for (const rows of ROWS) found.push(await measured(running, rows));
    const growth = (of: 'late' | 'far') =>
      (found.at(-1)?.[of] ?? Number.NaN) / (found[0]?.[of] ?? Number.NaN);
    return [
      ...found.flatMap(({ late, far, pages, worst }) => [late, far, pages, worst]),
      growth('late'),
      growth('far'),
    ];
  },
};

async function measured(running: Running, rows: number): Promise<Measured> {
  const { port, databaseUrl = '' } = running;
  const report = (line: string): void => console.error(`  ${count(rows)} rows: ${line}`);
  const log = logOf(rows);
  await fill(databaseUrl, log, report);
  await running.settle();
  const late = await resumes(port, log, 'late', MISSED);
  const far = await resumes(port, log, 'far', MISSED_OF_ALL);
  const { all, by } = await withPrograms(async (start) => {
    const pages = await start('pages', [port, JSON.stringify(log)]);
    await pages.round();
    return (await pages.round()) as Pages;
  });
  const filters = Object.entries(by).toSorted(([, a], [, b]) => b.p95 - a.p95);
  report(`p95 of a page: ${filters.map(([name, { p95 }]) => `${name} ${p95.toFixed(1)}`).join(', ')} ms`);
  return { late, far, pages: all.p95, worst: filters[0]?.[1].p95 ?? Number.NaN };
}

/** How long it takes a device of this crowd to come back and get what it missed: the median, in ms. */
const resumes = (port: number, log: Log, crowd: 'late' | 'far', missed: number): Promise<number> =>
  withPrograms(async (start) => {
    const after = crowd === 'late' ? log.beforeLate : log.floor;
    const program = await start('resumes', [port, log.tenant, crowd, COMERS, after]);
    await program.round();
    const p50s: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const { p50, notifications } = (await program.round()) as Resumes;
      if (notifications !== COMERS * missed)
        throw new Error(`${notifications} notifications came back and not ${COMERS * missed}`);
      p50s.push(p50);
    }
    return median(p50s);
  });
