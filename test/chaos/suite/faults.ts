import { setTimeout as sleep } from 'node:timers/promises';
import type { Installation, Node } from './installation.ts';
import type { LinkFault } from './link.ts';
import type { Fault } from './schedule.ts';

/** Sessions of the service: who watches the database is left alone. */
const OF_SERVICE = `from pg_stat_activity where backend_type = 'client backend' and application_name like 'tidings%' and pid <> pg_backend_pid()`;

/** Does it, and undoes it after its time. Resolves when it is over, and not when everything works again. */
export async function inflict(
  { kind, node: which, forMs, clockMs }: Fault,
  tenantId: string,
  installation: Installation,
): Promise<void> {
  const node = installation.nodes[which];
  if (node === undefined) throw new Error(`There is no node ${which}.`);
  switch (kind) {
    case 'kill a node':
      // Its supervisor starts it again.
      node.kill('SIGKILL');
      return;
    case 'freeze a node':
      node.kill('SIGSTOP');
      await sleep(forMs);
      node.kill('SIGCONT');
      return;
    case 'another clock on a node':
      node.setClock(clockMs);
      node.kill('SIGTERM');
      return;
    case 'end sessions of the database':
      await installation.onceThere((client) =>
        client.query(`select pg_terminate_backend(pid) ${OF_SERVICE}`),
      );
      return;
    case 'kill a backend of the database':
      await killBackend(installation);
      return;
    case 'kill the database':
      await installation.killPostgres();
      await sleep(forMs);
      await installation.startPostgres();
      return;
    case 'freeze the database':
      await freezePostgres(installation, forMs);
      return;
    case 'lock a log':
      await lockLog(installation, tenantId, forMs);
      return;
    case 'kill nats':
      await installation.nats?.kill();
      await sleep(forMs);
      await installation.nats?.start();
      return;
    case 'freeze nats':
      installation.nats?.signal('SIGSTOP');
      await sleep(forMs);
      installation.nats?.signal('SIGCONT');
      return;
    default: {
      const [fault, place] = kind.split(' ') as [LinkFault, keyof Node['links']];
      const link = node.links[place];
      link?.fail(fault);
      await sleep(forMs);
      link?.heal();
    }
  }
}

/** PostgreSQL ends all others with it, and recovers. */
async function killBackend(installation: Installation): Promise<void> {
  const [victim] = await installation.onceThere(
    async (client) =>
      (await client.query<{ pid: number }>(`select pid ${OF_SERVICE} order by random() limit 1`)).rows,
  );
  // The service may be away itself.
  if (victim === undefined) return;
  signal(victim.pid, 'SIGKILL');
  await installation.answers();
}

async function freezePostgres(installation: Installation, forMs: number): Promise<void> {
  const [first, ...others] = await installation.postgresProcesses();
  if (first === undefined) return;
  const all = [first, ...others];
  for (const pid of all) signal(pid, 'SIGSTOP');
  await sleep(forMs);
  for (const pid of all) signal(pid, 'SIGCONT');
  await installation.answers();
}

/** As a session of somebody does that forgets to commit. */
async function lockLog(installation: Installation, tenantId: string, forMs: number): Promise<void> {
  await installation
    .withDatabase(async (client) => {
      await client.query('begin');
      await client.query('select from tenant_logs where tenant_id = $1 for update', [tenantId]);
      await sleep(forMs);
      await client.query('commit');
    })
    // Another fault may end it first.
    .catch(() => undefined);
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended by itself.
  }
}
