import { cpuFor, latencies, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const CONNECTIONS = 5_000;
const MESSAGES = 40;
const PER_SECOND = 5;
const BYTES = 240;

/** Live messages to all who listen, receipts included. */
export const fanout: Workload = {
  name: 'fanout',
  does: `${MESSAGES} messages of ${BYTES} bytes to everyone, ${PER_SECOND}/s, ${CONNECTIONS} connections`,
  systems: ['tidings', 'nchan', 'mercure', 'centrifugo', 'tutorial', 'limit'],
  figures: [
    {
      name: 'CPU per delivery',
      unit: 'µs',
      budgets: [
        { than: 'nchan', most: 1 },
        { than: 'tutorial', most: 1 / 3 },
      ],
    },
    { name: "PostgreSQL's CPU per delivery", unit: 'µs', budgets: [] },
    { name: 'p50 of a delivery', unit: 'ms', budgets: [] },
    { name: 'p99 of a delivery', unit: 'ms', budgets: [] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const deliveries = CONNECTIONS * MESSAGES;
      const { port } = running;
      const subscribers = await start('subscribers', [name, port, CONNECTIONS, 'everyone', deliveries]);
      const publisher = await start('publisher', [name, port, PER_SECOND, MESSAGES, 'everyone', BYTES]);
      const { result, cpu } = await cpuFor(running, async () => {
        const [heard] = await Promise.all([latencies(subscribers), publisher.round()]);
        return heard;
      });
      return [
        cpu.service / deliveries,
        name === 'tidings' ? cpu.database / deliveries : undefined,
        result.p50,
        result.p99,
      ];
    }),
};
