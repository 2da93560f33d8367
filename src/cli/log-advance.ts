import 'reflect-metadata';
import { parseArgs } from 'node:util';
import { readConfig, ConfigError, type Config } from '../config.ts';
import { MaintenancePool } from '../database/maintenance-pool.ts';
import { StartError } from '../database/start-error.ts';
import { advance, type Advanced } from '../log/advance.ts';
import { AdvanceStore } from '../log/advance.store.ts';
import { PartitionsStore } from '../log/partitions.store.ts';
import { Partitions } from '../log/partitions.ts';
import { onDatabase } from './on-database.ts';

const HELP = `Lifts the head of every tenant's log to at least the database's present time.

  npm run --silent log:advance -- [--ahead <seconds>] [--json]

  --ahead  go that much further than now (default 0, at most a year). Use it when the database that was lost had a
           clock ahead of this one; the next notifications then carry times in the future until the clock is there.
  --json   print the result as one line of JSON

Run it once after the database went back in time: restored from a backup, or a standby promoted that had not yet
received everything. Clients may have seen positions that this database does not know. Without it such a client
could be told that it has missed nothing, while something new takes the place of what it saw.

Best before the service is started again. It may also run beside the service: streams that are open notice within a
second. No head is ever lowered, so running it twice, or for nothing, does no harm.

It works on DATABASE_URL, or without it on the service's own database under DATA_DIR, running or not.
`;

const OPTIONS = {
  ahead: { type: 'string', default: '0' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

const MOST_AHEAD_SECONDS = 366 * 86_400;

async function run(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const ahead = secondsOf(values.ahead);
  const config = readConfig(process.env);
  const result = await onDatabase(config, report, ({ engine }) =>
    advanceOn({ ...config, DATABASE_ENGINE_URL: engine }, ahead),
  );
  process.stdout.write(values.json ? `${JSON.stringify(result)}\n` : inWords(result));
}

function report(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function advanceOn(config: Config, ahead: number): Promise<Advanced> {
  const pool = new MaintenancePool(config);
  try {
    const store = new PartitionsStore(pool);
    return await advance(new AdvanceStore(pool), new Partitions(store, config), store, ahead);
  } finally {
    await pool.end();
  }
}

function secondsOf(text: string): number {
  const seconds = /^\d{1,8}$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds <= MOST_AHEAD_SECONDS))
    throw new Error('--ahead takes whole seconds, at most a year of them.');
  return seconds;
}

function inWords({ lifted, head, headTime }: Advanced): string {
  const tenants = lifted === 1 ? '1 tenant was' : `${lifted} tenants were`;
  return `${tenants} lifted. ${head === null ? 'There is no tenant yet.' : `The highest head is ${head}, at ${headTime}.`}\n`;
}

try {
  await run();
} catch (error) {
  const operator = error instanceof ConfigError || error instanceof StartError;
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(operator ? `${message}\n` : `${message}\n(--help tells how to use this.)\n`);
  process.exitCode = 1;
}
