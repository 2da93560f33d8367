import { parseArgs } from 'node:util';
import { present, refuse } from './output.ts';
import { load, together, type Run } from './runs.ts';

/* `npm run bench:together`: see test/bench/README.md. */

const { values, positionals: folders } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'boolean', default: false } },
});

const runs: Run[] = [];
for (const folder of folders)
  runs.push(await load(folder).catch((error: unknown) => refuse(`${folder} holds no run: ${String(error)}`)));
const [first] = runs;
if (first === undefined)
  refuse('Name the folders of the runs whose rounds are to be put together, as the bench left them.');
const at = new Date().toISOString();
await present({ ...first, at, of: runs.map((run) => run.at), results: together(runs) }, values);
