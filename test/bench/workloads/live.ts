import type { Latencies } from '../clients/latencies.ts';
import { cpuFor, latencies, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const CONNECTIONS = 5_000;
const PER_SECOND = 500;
const SECONDS = 15;
const BYTES = 240;

/** Publishes to single users who are connected, at a rate that is no trouble. */
export const live: Workload = {
  name: 'live',
  does: `${PER_SECOND} notifications of ${BYTES} bytes a second to single users among ${CONNECTIONS} connections, for ${SECONDS} s`,
  systems: ['tidings', 'nchan', 'mercure', 'centrifugo', 'tutorial'],
  figures: [
    { name: 'p50, sent to received', unit: 'ms', budgets: [{ most: 4 }] },
    { name: 'p99, sent to received', unit: 'ms', budgets: [{ most: 20 }] },
    { name: 'p99 of an answer', unit: 'ms', budgets: [] },
    { name: 'CPU per notification', unit: 'µs', budgets: [] },
    { name: "PostgreSQL's CPU per notification", unit: 'µs', budgets: [] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const { port } = running;
      const messages = PER_SECOND * SECONDS;
      const subscribers = await start('subscribers', [name, port, CONNECTIONS, 'user', messages]);
      const publisher = await start('publisher', [name, port, PER_SECOND, messages, CONNECTIONS, BYTES]);
      const round = async (): Promise<Latencies[]> =>
        await Promise.all([latencies(subscribers), latencies(publisher)]);
      await round();
      const { result, cpu } = await cpuFor(running, round);
      const [heard, answered] = result;
      return [
        heard?.p50,
        heard?.p99,
        answered?.p99,
        cpu.service / messages,
        name === 'tidings' ? cpu.database / messages : undefined,
      ];
    }),
};
