import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { startPostgres } from '../../support/postgres-server.ts';
import { ServiceProcess } from '../../support/service-process.ts';
import { cpuOf, memoryOf } from '../processes.ts';
import { heapOf } from '../../support/inspector.ts';
import type { Running, System } from './system.ts';

/* As it is deployed, but for limits that a tenant of this size would have been given. */
const SETTINGS = {
  MAX_CONNECTIONS: '18000',
  MAX_CONNECTIONS_PER_TENANT: '18000',
  NOTIFICATIONS_PER_SECOND: '1000000',
};

export const tidings: System = {
  name: 'tidings',
  contract:
    'answers when the notification is on disk; every request shows a token; what was sent is recorded',
  start: startTidings,
};

export async function startTidings(
  settings: Readonly<Record<string, string>> = {},
  parameters: Readonly<Record<string, string>> = {},
): Promise<Running> {
  const postgres = await startPostgres(parameters);
  const service = await ServiceProcess.launch(postgres, { ...SETTINGS, ...settings });
  await service.ready();
  const admin = new pg.Client({ connectionString: postgres.url });
  await admin.connect();
  const ask = async (sql: string): Promise<number> =>
    Number((await admin.query<{ n: string }>(`select (${sql})::text as n`)).rows[0]?.n);
  const postmaster = await ask(`split_part(pg_read_file('postmaster.pid'), E'\\n', 1)`);
  if ('shared_preload_libraries' in parameters) await admin.query('create extension pg_stat_statements');
  const others: ServiceProcess[] = [];
  return {
    databaseUrl: postgres.url,
    port: Number(new URL(service.url).port),
    cpu: () => Promise.resolve({ service: cpuOf(service.pid), database: cpuOf(postmaster) }),
    memory: () => Promise.resolve(memoryOf(service.pid)),
    async heap() {
      const [inspector] = /ws:\/\/\S+/.exec(service.stderr) ?? [];
      return inspector === undefined ? undefined : await heapOf(inspector);
    },
    statements: () => ask(STATEMENTS),
    settle: () => receiptsWritten(service.url),
    async join() {
      const other = await ServiceProcess.launch(postgres, { ...SETTINGS, ...settings });
      others.push(other);
      await other.ready();
      return Number(new URL(other.url).port);
    },
    async stop() {
      for (const node of [...others, service]) await node.end();
      await admin.end();
      await postgres.remove();
    },
  };
}

/** Waits until all that was sent is stored. */
async function receiptsWritten(url: string): Promise<void> {
  let waiting: number;
  do {
    // The figure is of the last flush, of which there are four a second; to ask costs the service 3 ms.
    await sleep(500);
    const figures = await (await fetch(`${url}/metrics`)).text();
    waiting = Number(/^tidings_receipts_queue(?:{.*})? (\d+)$/m.exec(figures)?.[1]);
  } while (waiting > 0);
  if (Number.isNaN(waiting)) throw new Error('The service does not say how much waits to be stored.');
}

/* By which streams find their place and read the log. What is written as receipts four times a second is not among them. */
const STATEMENTS = `
select coalesce(sum(calls), 0) from pg_stat_statements
where query like '%with comer as materialized%' or query like '%own as (%'`;
