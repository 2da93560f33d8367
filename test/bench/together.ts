import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { table } from './report.ts';
import { load, RESULTS, save, together, type Run } from './runs.ts';

/* `npm run bench:together`: see docs/performance.md. */

const { values, positionals: folders } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'boolean', default: false } },
});

const runs = await Promise.all(
  folders.map((folder) =>
    load(folder).catch((error: unknown) => {
      console.error(`${folder} holds no run: ${String(error)}`);
      process.exit(2);
    }),
  ),
);
const [first] = runs;
if (first === undefined) {
  console.error('Name the folders of the runs whose rounds are to be put together, as the bench left them.');
  process.exit(2);
}
const at = new Date().toISOString();
const all: Run = { ...first, at, of: runs.map((run) => run.at), results: together(runs) };
const folder = join(RESULTS, at.replaceAll(':', '-'));
await save(all, folder);
console.log(values.json ? JSON.stringify(all) : table(all.results));
console.error(`All figures, and pictures of what was measured at several sizes: ${folder}`);
