import { join } from 'node:path';
import { Program } from '../../load/program.ts';
import type { Latencies } from '../clients/latencies.ts';
import type { Cpu, Running } from '../systems/system.ts';

/** One of `clients`, in a process of its own. */
export const client = (name: string, args: readonly (string | number)[]): Promise<Program> =>
  Program.start(join(import.meta.dirname, '../clients', `${name}.ts`), args);

/** Runs `work` with programs that end with it. */
export async function withPrograms<Result>(work: (start: typeof client) => Promise<Result>): Promise<Result> {
  const programs: Program[] = [];
  try {
    return await work(async (name, args) => {
      const program = await client(name, args);
      programs.push(program);
      return program;
    });
  } finally {
    for (const program of programs) await program.end();
  }
}

/** CPU that a server uses for `work`, and for what it does afterwards. */
export async function cpuFor<Result>(
  running: Running,
  work: () => Promise<Result>,
): Promise<{ result: Result; cpu: Cpu }> {
  await running.settle();
  const before = await running.cpu();
  const result = await work();
  await running.settle();
  const after = await running.cpu();
  return {
    result,
    cpu: { service: after.service - before.service, database: after.database - before.database },
  };
}

export const latencies = async (program: Program): Promise<Latencies> => (await program.round()) as Latencies;
