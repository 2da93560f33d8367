import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { NATS_SERVER } from './installation.ts';
import { textOf } from './report.ts';
import { runChaos } from './run.ts';

/* `npm run chaos`: see test/chaos/README.md. */

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: '7' },
    nodes: { type: 'string', default: '3' },
    bus: { type: 'string', default: 'postgres' },
    json: { type: 'boolean', default: false },
  },
});

function refuse(why: string): never {
  process.stderr.write(`${why}\n`);
  process.exit(2);
}

function number(name: 'minutes' | 'seed' | 'nodes', least: number, most: number): number {
  const value = Number(values[name]);
  if (!(value >= least && value <= most))
    refuse(`--${name} is between ${least} and ${most}, not ${values[name]}.`);
  return value;
}

const minutes = number('minutes', 0.1, 1_440);
const seed = number('seed', 0, 2 ** 31);
const nodes = number('nodes', 1, 8);
if (!Number.isInteger(seed) || !Number.isInteger(nodes)) refuse('--seed and --nodes are whole numbers.');
const { bus } = values;
if (bus !== 'postgres' && bus !== 'nats') refuse(`--bus is postgres or nats, not ${bus}.`);
if (bus === 'nats' && !existsSync(NATS_SERVER)) refuse(`${NATS_SERVER} is not installed.`);

// What was started ends with this process, and not without it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130));

const report = await runChaos({ minutes, seed, nodes, bus }, (line) => {
  process.stderr.write(`${line}\n`);
});
process.stdout.write(`${values.json ? JSON.stringify(report, undefined, 2) : textOf(report)}\n`);
process.exit(report.balanced ? 0 : 1);
