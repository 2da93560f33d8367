import { setTimeout as sleep } from 'node:timers/promises';
import type { Program } from '../../load/program.ts';
import { latencies, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const BYTES = 240;
const MIB = 1_024 * 1_024;

const SINGLES = { users: 1_000, perSecond: 200, seconds: 10 };
const LISTENERS = 14_000;

/** Many get a broadcast while others are served. */
export const broadcast: Workload = {
  name: 'broadcast',
  does: `${LISTENERS + SINGLES.users} connections get a broadcast of ${BYTES} bytes every two seconds, while ${SINGLES.perSecond}/s go to single users among ${SINGLES.users} of them`,
  systems: ['tidings'],
  figures: [
    { name: 'p99 of a single user, without broadcasts', unit: 'ms', budgets: [] },
    { name: 'p99 of a single user, beside broadcasts', unit: 'ms', budgets: [] },
    { name: 'the second by the first', unit: '', budgets: [{ most: 2 }] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const { port } = running;
      const { users, perSecond, seconds } = SINGLES;
      const messages = perSecond * seconds;
      // They only read: whom of them a user is does not matter.
      const listeners = await start('connectors', [name, port, LISTENERS, 100, users]);
      await listeners.round();
      const singles = await start('subscribers', [name, port, users, 'user', messages]);
      const publisher = await start('publisher', [name, port, perSecond, messages, users, BYTES]);
      const all = await start('publisher', [name, port, 0.5, seconds / 2, 'unmeasured', BYTES]);
      const round = async (beside?: Program): Promise<number> => {
        const [heard] = await Promise.all([latencies(singles), publisher.round(), beside?.round()]);
        await running.settle();
        return heard.p99;
      };
      await round(all);
      const [quiet, busy] = [await round(), await round(all)];
      return [quiet, busy, busy / quiet];
    }),
};

const GOOD = 4_000;
const SLOW = 1_000;

/** Some do not read what everyone is sent. */
export const slow: Workload = {
  name: 'slow',
  does: `5 messages of 8,000 bytes a second to everyone for 10 s: ${GOOD} connections that read, then ${SLOW} more that do not`,
  systems: ['tidings'],
  figures: [
    { name: 'p99 of those who read, without the others', unit: 'ms', budgets: [] },
    { name: 'p99 of those who read, beside the others', unit: 'ms', budgets: [] },
    { name: 'the second by the first', unit: '', budgets: [{ most: 1.5 }] },
    { name: 'memory that those who do not read take', unit: 'MiB', budgets: [] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const { port } = running;
      const messages = 5 * 10;
      const readers = await start('subscribers', [name, port, GOOD, 'everyone', GOOD * messages]);
      const publisher = await start('publisher', [name, port, 5, messages, 'everyone', 8_000]);
      const round = async (): Promise<number> => {
        const [heard] = await Promise.all([latencies(readers), publisher.round()]);
        await running.settle();
        return heard.p99;
      };
      await round();
      const quiet = await round();
      const sleepers = await start('sleepers', [name, port, SLOW, GOOD]);
      await sleep(1_000);
      const memory = await running.memory();
      const busy = await round();
      const taken = (await running.memory()) - memory;
      await sleepers.end();
      return [quiet, busy, busy / quiet, taken / MIB];
    }),
};
