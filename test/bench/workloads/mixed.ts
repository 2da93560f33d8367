import type { Day } from '../clients/mixed-day.ts';
import { cpuFor, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const USERS = 2_000;
const TOPICS = 100;
const PER_SECOND = 20;
const SECONDS = 20;
/** Of the users, in a minute. */
const COME_BACK = 0.1;

/** What a tenant's day is like: recipients of every kind, real data, clients that come and go. */
export const mixed: Workload = {
  name: 'mixed',
  does: `${PER_SECOND} events of GitHub a second for ${SECONDS} s, 70 % to single users, 25 % to topics, 5 % to everyone; ${USERS} connections, 10 % of which are lost and resumed every minute`,
  systems: ['tidings'],
  figures: [
    { name: 'p50, sent to received', unit: 'ms', budgets: [] },
    { name: 'p99, sent to received', unit: 'ms', budgets: [] },
    { name: 'p99 of an answer', unit: 'ms', budgets: [] },
    { name: 'CPU per delivery', unit: 'µs', budgets: [] },
    { name: "PostgreSQL's CPU per delivery", unit: 'µs', budgets: [] },
  ],
  measure: (_, running) =>
    withPrograms(async (start) => {
      const program = await start('mixed-day', [
        running.port,
        USERS,
        TOPICS,
        PER_SECOND,
        PER_SECOND * SECONDS,
        (USERS * COME_BACK) / 60,
      ]);
      const round = async (): Promise<Day> => (await program.round()) as Day;
      await round();
      const { result, cpu } = await cpuFor(running, round);
      const { heard, answered, deliveries } = result;
      return [heard.p50, heard.p99, answered.p99, cpu.service / deliveries, cpu.database / deliveries];
    }),
};
