import { randomInt } from 'node:crypto';
import { freePort } from '../../src/postgres/server-process.ts';

/** Below what Linux gives to outgoing connections, and above what services are known for. */
const FIRST = 12_000;
const PORTS = 1_000;
const WORKERS = 20;

/**
 * A port that is free, and stays so until it is used: from a range of this worker of the run. Two workers that asked the
 * kernel in the same moment could be told the same one, and then one would test the service of the other.
 */
export async function ownPort(): Promise<number> {
  const worker = Number(process.env['JEST_WORKER_ID'] ?? 0) % WORKERS;
  return await freePort(FIRST + worker * PORTS + randomInt(PORTS));
}
