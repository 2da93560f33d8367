import { table } from './report.ts';
import { save, type Run } from './runs.ts';

/** What is wrong with a command, and what it takes instead. */
export function refuse(message: string): never {
  console.error(message);
  process.exit(2);
}

/** Leaves a run in its folder, and prints its table or, for machines, all of it. */
export async function present(run: Run, { json }: { readonly json: boolean }): Promise<void> {
  const folder = await save(run);
  console.log(json ? JSON.stringify(run) : table(run.results));
  console.error(`All figures, and pictures of what was measured at several sizes: ${folder}`);
}
