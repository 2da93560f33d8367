import { setTimeout as sleep } from 'node:timers/promises';
import type { Comeback } from '../clients/comebacks.ts';
import { latencies, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const CONNECTIONS = 10_000;
const BEHIND = 20;
const BYTES = 240;
/** Single publishes to others meanwhile. */
const PER_SECOND = 50;
const SECONDS = 10;

/** All clients of a tenant lose their streams, miss something, and come back in the same moment. */
export const reconnect: Workload = {
  name: 'reconnect',
  does: `${CONNECTIONS} clients of a tenant come back at once, each ${BEHIND} notifications of ${BYTES} bytes of its own behind; beside them ${PER_SECOND} publishes/s`,
  systems: ['tidings'],
  parameters: { shared_preload_libraries: 'pg_stat_statements', 'pg_stat_statements.track': 'top' },
  figures: [
    { name: 'until all have caught up', unit: 's', budgets: [] },
    { name: 'notifications lost or repeated', unit: '', budgets: [{ most: 0 }] },
    { name: 'statements for all of them', unit: '', budgets: [{ most: 100 }] },
    { name: 'p99 of a publish meanwhile', unit: 'ms', budgets: [{ most: 100 }] },
    { name: 'CPU per client', unit: 'µs', budgets: [] },
    { name: "PostgreSQL's CPU per client", unit: 'µs', budgets: [] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const { port } = running;
      const clients = await start('comebacks', [name, port, CONNECTIONS]);
      const other = await start('publisher', [
        name,
        port,
        PER_SECOND,
        PER_SECOND * SECONDS,
        1,
        BYTES,
        CONNECTIONS,
      ]);
      await other.round();
      const missed = await start('batches', [port, CONNECTIONS, BEHIND, BYTES]);
      await missed.round();
      await running.settle();
      const [cpu, statements] = [await running.cpu(), (await running.statements?.()) ?? 0];
      const publishing = latencies(other);
      await sleep(500);
      const found = (await clients.round()) as Comeback;
      await running.settle();
      const [used, ran] = [await running.cpu(), (await running.statements?.()) ?? 0];
      const { p99 } = await publishing;
      return [
        found.seconds,
        Math.abs(found.notifications - CONNECTIONS * BEHIND),
        ran - statements,
        p99,
        (used.service - cpu.service) / CONNECTIONS,
        (used.database - cpu.database) / CONNECTIONS,
      ];
    }),
};
