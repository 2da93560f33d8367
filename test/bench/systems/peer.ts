import { locate, type Peer } from '../peers.ts';
import { launchConfigured } from './configured.ts';
import type { Running } from './system.ts';

/** Starts a peer from the PATH, or takes the one that runs already. */
export async function startPeer(peer: Peer, setup: Parameters<typeof launchConfigured>[1]): Promise<Running> {
  const where = locate(peer);
  if ('url' in where) return elsewhere(where.url);
  if ('path' in where) return await launchConfigured(where.path, setup);
  throw new Error('missing' in where ? where.missing : where.wrong);
}

/** A server whose processes are not below this one, or not on this machine. It is left as it is. */
const elsewhere = ({ port }: URL): Running => ({
  port: Number(port || 80),
  cpu: () => Promise.resolve({ service: Number.NaN, database: Number.NaN }),
  memory: () => Promise.resolve(Number.NaN),
  settle: () => Promise.resolve(),
  stop: () => Promise.resolve(),
});
