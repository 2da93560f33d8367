import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { table, type Result } from './report.ts';
import { ALL } from './systems/all.ts';
import { connect } from './workloads/connect.ts';
import { broadcast, slow } from './workloads/crowd.ts';
import { fanout } from './workloads/fanout.ts';
import { live } from './workloads/live.ts';
import { batch, publish } from './workloads/publish.ts';
import { reconnect } from './workloads/reconnect.ts';
import { run, type Workload } from './workloads/workload.ts';

/* `npm run bench`: see docs/performance.md. */

const WORKLOADS: readonly Workload[] = [fanout, live, connect, publish, batch, reconnect, broadcast, slow];

const RESULTS = resolve(import.meta.dirname, '../../bench-results');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});

const unknown = positionals.filter((name) => !WORKLOADS.some((workload) => workload.name === name));
if (unknown.length > 0) {
  console.error(
    `There is no workload ${unknown.join(', ')}. Name some of: ${WORKLOADS.map(({ name }) => name).join(', ')}; none means all.`,
  );
  process.exit(2);
}

const chosen = WORKLOADS.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
const results: Result[] = [];
for (const workload of chosen) {
  console.error(`${workload.name}: ${workload.does}`);
  const systems = workload.systems
    .filter((name) => values.only === undefined || values.only.split(',').includes(name))
    .map((name) => ALL[name]);
  const figures = await run(workload, systems, Number(values.rounds), (line) => console.error(`  ${line}`));
  results.push({ name: workload.name, does: workload.does, figures });
}

const [cpu] = cpus();
const report = {
  at: new Date().toISOString(),
  machine: { cpu: cpu?.model, cpus: cpus().length, memory: totalmem(), node: process.version },
  contracts: Object.fromEntries(Object.values(ALL).map(({ name, contract }) => [name, contract])),
  results,
};
await mkdir(RESULTS, { recursive: true });
const file = join(RESULTS, `${report.at.replaceAll(':', '-')}.json`);
await writeFile(file, JSON.stringify(report, null, 1));
console.log(values.json ? JSON.stringify(report) : table(results));
console.error(`All figures: ${file}`);
