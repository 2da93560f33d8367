import { cpus, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import { present, refuse } from './output.ts';
import { locate } from './peers.ts';
import type { Result } from './report.ts';
import { save, type Run } from './runs.ts';
import { ALL } from './systems/all.ts';
import { stallsOf, textOf } from './stalls.ts';
import { SYSTEMS, type SystemName } from './systems/system.ts';
import { backlog } from './workloads/backlog.ts';
import { connect } from './workloads/connect.ts';
import { connections } from './workloads/connections.ts';
import { broadcast, slow } from './workloads/crowd.ts';
import { fanout } from './workloads/fanout.ts';
import { history } from './workloads/history.ts';
import { inbox } from './workloads/inbox.ts';
import { live } from './workloads/live.ts';
import { mixed } from './workloads/mixed.ts';
import { batch, publish } from './workloads/publish.ts';
import { nodes } from './workloads/nodes.ts';
import { reconnect } from './workloads/reconnect.ts';
import { tenants } from './workloads/tenants.ts';
import { run, type Workload } from './workloads/workload.ts';

/* `npm run bench`: see test/bench/README.md. */

const WORKLOADS: readonly Workload[] = [
  fanout,
  live,
  connect,
  publish,
  batch,
  reconnect,
  broadcast,
  slow,
  mixed,
  connections,
  tenants,
  backlog,
  history,
  inbox,
  nodes,
];

/** Long enough for a machine that stalls once a second to show it. */
const STALLS_SECONDS = 10;

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
  const known = WORKLOADS.map(({ name }) => name).join(', ');
  refuse(`There is no workload ${unknown.join(', ')}. Name some of: ${known}; none means all.`);
}
const rounds = Number(values.rounds);
if (!Number.isInteger(rounds) || rounds < 1)
  refuse(`--rounds is how often each system is measured, 1 or more, not ${values.rounds}.`);
const only = values.only?.split(',');
const strangers = only?.filter((name) => !SYSTEMS.some((system) => system === name)) ?? [];
if (strangers.length > 0)
  refuse(`There is no system ${strangers.join(', ')}. Name some of: ${SYSTEMS.join(', ')}; none means all.`);

const chosen = WORKLOADS.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
const wanted = ({ systems }: Workload): SystemName[] =>
  systems.filter((name) => only?.includes(name) ?? true);

/** Peers that nobody has, and peers that run already, so that nothing of their processes can be measured. */
const [absent, elsewhere] = [new Set<SystemName>(), new Set<SystemName>()];
for (const name of new Set(chosen.flatMap(wanted))) {
  const { peer } = ALL[name];
  if (peer === undefined) continue;
  const where = locate(peer);
  if ('wrong' in where) refuse(`${where.wrong}.`);
  if ('url' in where) elsewhere.add(name);
  if (!('missing' in where)) continue;
  if (only !== undefined) refuse(`There is no ${name} here: ${where.missing}.`);
  console.error(`${name} is left out. To have it measured, ${where.missing}.`);
  absent.add(name);
}

const [cpu] = cpus();
const stalls = stallsOf(STALLS_SECONDS);
console.error(textOf(stalls));
const results: Result[] = [];
const measured: Run = {
  at: new Date().toISOString(),
  machine: { cpu: cpu?.model, cpus: cpus().length, memory: totalmem(), node: process.version, stalls },
  contracts: Object.fromEntries(Object.values(ALL).map(({ name, contract }) => [name, contract])),
  results,
};
for (const workload of chosen) {
  console.error(`${workload.name}: ${workload.does}`);
  const there = wanted(workload).filter((name) => !absent.has(name));
  const unmeasured = there.filter((name) => workload.needsProcess === true && elsewhere.has(name));
  for (const name of unmeasured) console.error(`  ${name} is left out: its processes are elsewhere.`);
  const systems = there.filter((name) => !unmeasured.includes(name)).map((name) => ALL[name]);
  const figures = await run(workload, systems, rounds, (line) => console.error(`  ${line}`));
  results.push({ name: workload.name, does: workload.does, figures });
  // What comes next may take long, or be stopped.
  await save(measured);
}
await present(measured, values);
