import { setTimeout as sleep } from 'node:timers/promises';
import type { Program } from '../../load/program.ts';
import { cpuFor, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const CONNECTIONS = 10_000;
/** Of them at a time: as fast as they get in, without a queue that would be measured instead. */
const AT_ONCE = 100;
/** Connected and left before anything is measured: what a server needs once is no matter of connections. */
const WARM = 1_000;
/** How long those who have left are forgotten, in ms. */
const REST_MS = 3_000;

const KIB = 1_024;

/** What it costs to connect, and to stay. */
export const connect: Workload = {
  name: 'connect',
  does: `${CONNECTIONS} clients connect, ${AT_ONCE} at a time, stay and leave, twice; then as many others`,
  systems: ['tidings', 'nchan', 'mercure', 'centrifugo', 'tutorial', 'limit'],
  needsProcess: true,
  settings: { NODE_OPTIONS: '--inspect=127.0.0.1:0' },
  figures: [
    { name: 'CPU per connect', unit: 'µs', budgets: [{ most: 300 }] },
    { name: 'the same again, with a token seen before', unit: 'µs', budgets: [{ most: 200 }] },
    {
      name: 'resident memory per connection',
      unit: 'KiB',
      budgets: [
        { than: 'nchan', most: 1 },
        { than: 'tutorial', most: 1 / 3 },
      ],
    },
    { name: 'heap and external per connection', unit: 'KiB', budgets: [{ most: 3 }] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const { port } = running;
      const come = async (users: number, first: number): Promise<Program> => {
        const clients = await start('connectors', [name, port, users, AT_ONCE, first]);
        await clients.round();
        return clients;
      };
      const leave = async (clients: Program): Promise<void> => {
        await clients.round();
        await sleep(REST_MS);
      };
      await leave(await come(WARM, CONNECTIONS));

      const memory = await running.memory();
      const clients = await come(CONNECTIONS, 0);
      const grown = (await running.memory()) - memory;
      await leave(clients);

      await clients.round();
      await leave(clients);

      // By now what is done for each has been compiled.
      const others = await start('connectors', [name, port, CONNECTIONS, AT_ONCE, 2 * CONNECTIONS]);
      const first = await cpuFor(running, () => others.round());
      await leave(others);
      const again = await cpuFor(running, () => others.round());
      await leave(others);

      // At last: what asks for it collects first, and leaves a heap that is as small as it never is, with nothing compiled.
      const heap = await running.heap?.();
      await clients.round();
      const kept = await running.heap?.();
      return [
        first.cpu.service / CONNECTIONS,
        // Where there is no token there is none to be known.
        name === 'tidings' ? again.cpu.service / CONNECTIONS : undefined,
        grown / CONNECTIONS / KIB,
        heap === undefined || kept === undefined ? undefined : (kept - heap) / CONNECTIONS / KIB,
      ];
    }),
};
