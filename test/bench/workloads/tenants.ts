import { cpuFor, latencies, withPrograms } from './load.ts';
import { atEach, type Workload } from './workload.ts';

const USERS = 10_000;
const TENANTS = [1, 100, 10_000];
const PER_SECOND = 400;
const SECONDS = 10;
const BYTES = 240;

/** The same work for one tenant, and for as many tenants as there are users. */
export const tenants: Workload = {
  name: 'tenants',
  does: `${PER_SECOND} notifications of ${BYTES} bytes a second to single users among ${USERS} connections for ${SECONDS} s, which belong to more and more tenants`,
  systems: ['tidings'],
  figures: atEach('tenants', TENANTS, [
    { name: 'p99, sent to received', unit: 'ms', budgets: [] },
    { name: 'CPU per notification', unit: 'µs', budgets: [] },
    { name: "PostgreSQL's CPU per notification", unit: 'µs', budgets: [] },
  ]),
  async measure(_, running) {
    const messages = PER_SECOND * SECONDS;
    const figures: number[] = [];
    for (const count of TENANTS)
      await withPrograms(async (start) => {
        const program = await start('tenancies', [running.port, USERS, count, PER_SECOND, messages, BYTES]);
        await latencies(program);
        const { result, cpu } = await cpuFor(running, () => latencies(program));
        figures.push(result.p99, cpu.service / messages, cpu.database / messages);
      });
    return figures;
  },
};
