import { cpuFor, latencies, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const USERS = 2_000;
const MANY = 2_000;
const PER_SECOND = 400;
const SECONDS = 10;
const BYTES = 240;

/** The same work for one tenant, and for as many tenants as there are users. */
export const tenants: Workload = {
  name: 'tenants',
  does: `${PER_SECOND} notifications of ${BYTES} bytes a second to single users among ${USERS} connections for ${SECONDS} s: of one tenant, then of ${MANY}`,
  systems: ['tidings'],
  figures: [
    { name: 'p99, sent to received, one tenant', unit: 'ms', budgets: [] },
    { name: `p99, sent to received, ${MANY} tenants`, unit: 'ms', budgets: [] },
    { name: 'CPU per notification, one tenant', unit: 'µs', budgets: [] },
    { name: `CPU per notification, ${MANY} tenants`, unit: 'µs', budgets: [] },
    { name: "PostgreSQL's CPU per notification, one tenant", unit: 'µs', budgets: [] },
    { name: `PostgreSQL's CPU per notification, ${MANY} tenants`, unit: 'µs', budgets: [] },
  ],
  async measure(_, running) {
    const messages = PER_SECOND * SECONDS;
    const among = (count: number) =>
      withPrograms(async (start) => {
        const program = await start('tenancies', [running.port, USERS, count, PER_SECOND, messages, BYTES]);
        await latencies(program);
        const { result, cpu } = await cpuFor(running, () => latencies(program));
        return { p99: result.p99, service: cpu.service / messages, database: cpu.database / messages };
      });
    const [one, many] = [await among(1), await among(MANY)];
    return [one.p99, many.p99, one.service, many.service, one.database, many.database];
  },
};
