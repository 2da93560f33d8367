import { cpuFor, latencies, withPrograms } from './load.ts';
import { atEach, type Workload } from './workload.ts';

const CONNECTIONS = [1_000, 5_000, 10_000, 15_000];
const MESSAGES = 10;
const PER_SECOND = 1;
const BYTES = 240;

const KIB = 1_024;

/** What a connection and a delivery cost, by how many connections there are. */
export const connections: Workload = {
  name: 'connections',
  does: `more and more connections, and ${MESSAGES} messages of ${BYTES} bytes to all of them`,
  systems: ['tidings', 'nchan', 'limit'],
  figures: atEach('connections', CONNECTIONS, [
    { name: 'CPU per further connect', unit: 'µs', budgets: [] },
    { name: 'resident memory per connection', unit: 'KiB', budgets: [] },
    { name: 'CPU per delivery', unit: 'µs', budgets: [] },
    { name: 'p99 of a delivery', unit: 'ms', budgets: [] },
  ]),
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const { port } = running;
      const empty = await running.memory();
      const publisher = await start('publisher', [name, port, PER_SECOND, MESSAGES, 'everyone', BYTES]);
      const crowds: Awaited<ReturnType<typeof start>>[] = [];
      const figures: number[] = [];
      let present = 0;
      for (const count of CONNECTIONS) {
        const further = count - present;
        const { cpu: connect } = await cpuFor(running, async () => {
          crowds.push(
            await start('subscribers', [name, port, further, 'everyone', further * MESSAGES, present]),
          );
        });
        present = count;
        const grown = (await running.memory()) - empty;
        const { result, cpu } = await cpuFor(running, async () => {
          const [heard] = await Promise.all([Promise.all(crowds.map(latencies)), publisher.round()]);
          return heard;
        });
        figures.push(
          connect.service / further,
          grown / count / KIB,
          cpu.service / (count * MESSAGES),
          Math.max(...result.map(({ p99 }) => p99)),
        );
      }
      return figures;
    }),
};
