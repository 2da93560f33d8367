import { join } from 'node:path';
import { ownPort } from '../../support/own-port.ts';
import { launch } from './launch.ts';
import type { Running } from './system.ts';

const TYPESCRIPT = join(import.meta.dirname, '../../jest/typescript.mjs');

/** Starts one of `servers`, which is told its port. */
export async function startNodeProgram(name: string): Promise<Running> {
  const port = await ownPort();
  const file = join(import.meta.dirname, '../servers', `${name}.ts`);
  return await launch(process.execPath, ['--import', TYPESCRIPT, file, String(port)], port);
}
