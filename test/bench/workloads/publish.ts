import { positionOfTime } from '../../../src/core/position.ts';
import { Caller } from '../../load/caller.ts';
import type { Throughput } from '../clients/latencies.ts';
import { tidings } from '../wires/tidings.ts';
import { cpuFor, withPrograms } from './load.ts';
import type { Workload } from './workload.ts';

const SECONDS = 8;
const BYTES = 240;
const BATCH = 100;

/** Publishes of one notification, as fast as they are answered. */
export const publish: Workload = {
  name: 'publish',
  does: `64 clients publish one notification of ${BYTES} bytes after the other for ${SECONDS} s; then 16`,
  systems: ['tidings', 'guarded'],
  figures: [
    { name: 'publishes, 64 clients', unit: '/s', budgets: [{ least: 5_000 }] },
    { name: 'CPU per publish', unit: 'µs', budgets: [{ than: 'guarded', most: 2 }] },
    { name: "PostgreSQL's CPU per publish", unit: 'µs', budgets: [] },
    { name: 'p50, 64 clients', unit: 'ms', budgets: [] },
    { name: 'publishes, 16 clients', unit: '/s', budgets: [] },
    { name: 'p50, 16 clients', unit: 'ms', budgets: [] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      const what = name === 'guarded' ? 'guarded' : 'single';
      const measured = async (clients: number) => {
        const program = await start('closed-loop', [what, running.port, clients, SECONDS, BYTES, 1]);
        // The first seconds of a process are those of its compiler.
        await program.round();
        return await cpuFor(running, async () => (await program.round()) as Throughput);
      };
      const many = await measured(64);
      const few = await measured(16);
      return [
        many.result.perSecond,
        many.cpu.service / many.result.count,
        name === 'tidings' ? many.cpu.database / many.result.count : undefined,
        many.result.p50,
        few.result.perSecond,
        few.result.p50,
      ];
    }),
};

/** The first notification makes the partition that the bare client writes to. */
async function makeRoom(port: number): Promise<void> {
  const caller = new Caller(port);
  const status = await caller.send(tidings.publish(0, '1'));
  caller.close();
  if (status !== 201) throw new Error(`a publish was answered ${status}`);
}

/** Batches, as fast as they are answered. */
export const batch: Workload = {
  name: 'batch',
  does: `8 clients publish one batch of ${BATCH} notifications of ${BYTES} bytes after the other for ${SECONDS} s`,
  systems: ['tidings', 'client'],
  figures: [
    {
      name: 'notifications',
      unit: '/s',
      budgets: [{ least: 15_000 }, { than: 'client', least: 0.5 }],
    },
    { name: 'CPU per notification', unit: 'µs', budgets: [] },
    { name: "PostgreSQL's CPU per notification", unit: 'µs', budgets: [] },
    { name: 'p50 of a batch', unit: 'ms', budgets: [] },
  ],
  measure: ({ name }, running) =>
    withPrograms(async (start) => {
      if (name === 'client') await makeRoom(running.port);
      const program =
        name === 'client'
          ? await start('bare-writer', [
              running.databaseUrl ?? '',
              8,
              SECONDS,
              BYTES,
              BATCH,
              positionOfTime(Date.now()),
            ])
          : await start('closed-loop', ['batch', running.port, 8, SECONDS, BYTES, BATCH]);
      await program.round();
      const { result, cpu } = await cpuFor(running, async () => (await program.round()) as Throughput);
      const notifications = result.count * BATCH;
      return [
        result.perSecond * BATCH,
        name === 'tidings' ? cpu.service / notifications : undefined,
        cpu.database / notifications,
        result.p50,
      ];
    }),
};
