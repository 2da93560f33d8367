import pg from 'pg';
import type { InboxCalls } from '../clients/inbox-calls.ts';
import { fillInboxes } from '../inboxes.ts';
import { withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const COMERS = 500;
/** Users that one statement counts for. */
const TOGETHER = 300;

/** Inboxes in a log of a million rows. */
export const inbox: Workload = {
  name: 'inbox',
  does: `${COMERS} users come back and are told their numbers; pages, counts and marks of inboxes in a log of 1,000,000 rows`,
  systems: ['tidings'],
  parameters: {
    max_wal_size: '2GB',
    shared_preload_libraries: 'pg_stat_statements',
    'pg_stat_statements.track': 'top',
  },
  figures: [
    {
      name: `statements that count for ${COMERS} who come back`,
      unit: '',
      budgets: [{ most: 2 * Math.ceil(COMERS / TOGETHER) }],
    },
    { name: "PostgreSQL's time for them", unit: 'ms', budgets: [{ most: 150 }] },
    { name: 'until all have their numbers', unit: 'ms', budgets: [] },
    { name: 'p50 of a page of 20 unread', unit: 'ms', budgets: [] },
    { name: 'p95 of a page of 20 unread', unit: 'ms', budgets: [{ most: 10 }] },
    { name: 'p50 of the numbers: only their own', unit: 'ms', budgets: [] },
    { name: '3,000 for everyone', unit: 'ms', budgets: [] },
    { name: '10,000 read one by one', unit: 'ms', budgets: [] },
    { name: '100,000 of their own', unit: 'ms', budgets: [] },
    { name: 'p50 of marking one', unit: 'ms', budgets: [] },
    { name: 'p50 of marking all', unit: 'ms', budgets: [] },
    { name: 'moves of `seen`, 64 clients', unit: '/s', budgets: [] },
  ],
  async measure(_, running) {
    const { port, databaseUrl = '' } = running;
    const log = await fillInboxes(databaseUrl, (line) => console.error(`  ${line}`));
    const client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
    /** Of the statement that counts, so far. */
    const counting = async (): Promise<{ calls: number; ms: number }> => {
      const { rows } = await client.query<{ calls: number; ms: number }>(
        `select coalesce(sum(calls), 0)::float8 as calls, coalesce(sum(total_exec_time), 0)::float8 as ms
         from pg_stat_statements where query like '%address as materialized%' and query not like '%pg_stat%'`,
      );
      return rows[0] ?? { calls: Number.NaN, ms: Number.NaN };
    };
    try {
      return await withPrograms(async (start) => {
        const comers = await start('inbox-comebacks', [port, log.tenant, COMERS]);
        // Devices are made, and statements are planned.
        for (let round = 0; round < 3; round += 1) await comers.round();
        await running.settle();
        const before = await counting();
        const until = (await comers.round()) as number;
        await running.settle();
        const after = await counting();
        const calls = await start('inbox-calls', [port, JSON.stringify(log)]);
        await calls.round();
        const { page, counts, markOne, markAll, moves } = (await calls.round()) as InboxCalls;
        return [
          after.calls - before.calls,
          after.ms - before.ms,
          until,
          page.p50,
          page.p95,
          ...['direct', 'wide', 'marked', 'rich'].map((user) => counts[user]?.p50),
          markOne.p50,
          markAll.p50,
          moves,
        ];
      });
    } finally {
      await client.end();
    }
  },
};
