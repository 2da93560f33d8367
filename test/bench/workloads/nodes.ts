import type { Running } from '../systems/system.ts';
import { cpuFor, latencies, withPrograms } from './load.ts';
import { atEach, type Workload } from './workload.ts';

const NODES = [1, 2, 4];
/** On each node but the one that is published to. */
const CONNECTIONS = 500;
const PER_SECOND = 200;
const SECONDS = 15;
const BYTES = 240;

/** What one node stores, heard by streams of others. */
export const nodes: Workload = {
  name: 'nodes',
  does: `${PER_SECOND} notifications of ${BYTES} bytes a second, published to one node, to users with a stream on another one, for ${SECONDS} s`,
  systems: ['tidings', 'nats'],
  figures: atEach('nodes', NODES, [
    { name: 'p50, sent to received', unit: 'ms', budgets: [] },
    { name: 'p99, sent to received', unit: 'ms', budgets: [] },
    { name: 'messages a second of the publishing node', unit: '', budgets: [{ most: 110 }] },
    { name: "PostgreSQL's CPU per notification", unit: 'µs', budgets: [] },
  ]),
  async measure(_, running) {
    const ports = [running.port];
    const figures: number[] = [];
    for (const count of NODES) {
      while (ports.length < count) ports.push((await running.join?.()) ?? Number.NaN);
      figures.push(...(await heardOn(running, count === 1 ? ports : ports.slice(1))));
    }
    return figures;
  },
};

/** Latencies are those of the node that heard last. */
async function heardOn(running: Running, listening: readonly number[]): Promise<number[]> {
  const { port } = running;
  const messages = PER_SECOND * SECONDS;
  const users = CONNECTIONS * listening.length;
  return await withPrograms(async (start) => {
    const subscribers = await Promise.all(
      listening.map((other, n) =>
        start('subscribers', [
          'tidings',
          other,
          CONNECTIONS,
          'user',
          messages / listening.length,
          n * CONNECTIONS,
        ]),
      ),
    );
    const publisher = await start('publisher', ['tidings', port, PER_SECOND, messages, users, BYTES]);
    const round = async () => {
      const [, ...heard] = await Promise.all([latencies(publisher), ...subscribers.map(latencies)]);
      return heard;
    };
    await round();
    const before = await messagesSent(port);
    const { result: heard, cpu } = await cpuFor(running, round);
    const sent = (await messagesSent(port)) - before;
    const most = (figure: 'p50' | 'p99') => Math.max(...heard.map((one) => one[figure]));
    return [most('p50'), most('p99'), sent / SECONDS, cpu.database / messages];
  });
}

async function messagesSent(port: number): Promise<number> {
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Number(/^tidings_bus_messages_total{direction="sent"} (\d+)$/m.exec(metrics)?.[1]);
}
