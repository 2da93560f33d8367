import { setTimeout as sleep } from 'node:timers/promises';
import { cpuFor, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const CONNECTIONS = 10_000;
/** Of them at a time: as fast as they get in, without a queue that would be measured instead. */
const AT_ONCE = 100;
/** Connected and left before anything is measured: what a server needs once is no matter of connections. */
const WARM = 5_000;
/** How long those who have left are forgotten, in ms. */
const REST_MS = 3_000;

const KIB = 1_024;

/** What it costs to connect, and to stay. */
export const connect: Workload = {
  name: 'connect',
  does: `${CONNECTIONS} clients connect, ${AT_ONCE} at a time, stay, leave, and connect again; ${WARM} others did so before`,
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
      const warm = await start('connectors', [name, port, WARM, AT_ONCE]);
      await warm.round();
      await warm.end();
      const clients = await start('connectors', [name, port, CONNECTIONS, AT_ONCE]);
      await sleep(REST_MS);
      const [heap, memory] = [await running.heap?.(), await running.memory()];
      const first = await cpuFor(running, () => clients.round());
      const grown = (await running.memory()) - memory;
      const kept = await running.heap?.();
      await clients.round();
      await sleep(REST_MS);
      const again = await cpuFor(running, () => clients.round());
      return [
        first.cpu.service / CONNECTIONS,
        // Where there is no token there is none to be known.
        name === 'tidings' ? again.cpu.service / CONNECTIONS : undefined,
        grown / CONNECTIONS / KIB,
        heap === undefined || kept === undefined ? undefined : (kept - heap) / CONNECTIONS / KIB,
      ];
    }),
};
