import 'reflect-metadata';
import { readSettings, settingsSchema } from '../core/config.ts';
import { TUNING } from '../core/tuning.ts';
import { AdvanceStore, advance, type Advanced } from '../log/advance.ts';
import { PartitionsStore, Partitions } from '../log/partitions.ts';
import { MaintenancePool } from '../postgres/pools.ts';
import { DATABASE_SETTINGS, onDatabase, parse, UsageError, type Command } from './command.ts';

const HELP = `Lifts the head of every tenant's log, and the revisions of its inboxes, to at least the database's present time.

  tidings log-advance [--ahead <seconds>] [--json]

  --ahead  go that much further than now (default 0, at most a year). Use it when the database that was lost had a
           clock ahead of this one; the next notifications then carry times in the future until the clock is there.
  --json   print the result as one line of JSON

Run it once after the database went back in time: restored from a backup, or a standby promoted that had not yet
received everything. Clients may have seen positions that this database does not know. Without it such a client
could be told that it has missed nothing, while something new takes the place of what it saw. Inboxes get revisions that
no client has seen, so that none keeps numbers that are not true any more.

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

const settings = settingsSchema.pick({
  ...DATABASE_SETTINGS,
  DATABASE_CONNECT_TIMEOUT_MS: true,
  PARTITION_HOURS: true,
});

/** `tidings log-advance`. */
export const logAdvance: Command = async (args, environment, terminal) => {
  const { values } = parse({ args: [...args], options: OPTIONS });
  if (values.help) return terminal.print(HELP);
  const ahead = secondsOf(values.ahead);
  const config = readSettings(environment, settings);
  const result = await onDatabase(config, terminal.report, async ({ crossTenant }) => {
    const pool = new MaintenancePool({ ...config, DATABASE_ENGINE_URL: crossTenant });
    try {
      const store = new PartitionsStore(pool);
      return await advance(
        new AdvanceStore(pool),
        new Partitions(store, { ...TUNING, ...config }),
        store,
        ahead,
      );
    } finally {
      await pool.end();
    }
  });
  terminal.print(values.json ? `${JSON.stringify(result)}\n` : inWords(result));
};

function secondsOf(text: string): number {
  const seconds = /^\d{1,8}$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds <= MOST_AHEAD_SECONDS))
    throw new UsageError('--ahead takes whole seconds, at most a year of them.');
  return seconds;
}

function inWords({ lifted, head, headTime }: Advanced): string {
  const tenants = lifted === 1 ? '1 tenant was' : `${lifted} tenants were`;
  return `${tenants} lifted. ${head === null ? 'There is no tenant yet.' : `The highest head is ${head}, at ${headTime}.`}\n`;
}
