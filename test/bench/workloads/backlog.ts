import type { Comeback } from '../clients/comebacks.ts';
import { cpuFor, withPrograms } from './load.ts';
import { atEach, type Workload } from './workload.ts';

const CLIENTS = 500;
const BEHIND = [1, 10, 100, 1_000];
const BYTES = 240;

/** What a client costs that comes back, by how much it has missed. */
export const backlog: Workload = {
  name: 'backlog',
  does: `${CLIENTS} clients come back at once, each some notifications of ${BYTES} bytes of its own behind`,
  systems: ['tidings'],
  figures: atEach('notifications behind', BEHIND, [
    { name: 'until all have caught up', unit: 's', budgets: [] },
    { name: 'CPU per client', unit: 'µs', budgets: [] },
    { name: "PostgreSQL's CPU per client", unit: 'µs', budgets: [] },
  ]),
  async measure({ name }, running) {
    const { port } = running;
    const figures: number[] = [];
    for (const [n, behind] of BEHIND.entries())
      await withPrograms(async (start) => {
        // Others each time, whose devices have confirmed nothing either.
        const first = n * CLIENTS;
        const clients = await start('comebacks', [name, port, CLIENTS, first]);
        const missed = await start('batches', [port, CLIENTS, behind, BYTES, first]);
        await missed.round();
        const { result, cpu } = await cpuFor(running, async () => (await clients.round()) as Comeback);
        if (result.notifications !== CLIENTS * behind)
          throw new Error(`${result.notifications} of ${CLIENTS * behind} notifications came`);
        figures.push(result.seconds, cpu.service / CLIENTS, cpu.database / CLIENTS);
      });
    return figures;
  },
};
