import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { post } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { BreakingProxy } from '../../support/breaking-proxy.ts';
import { eventually } from '../../support/eventually.ts';
import { goodRequest } from './attempt.ts';
import { callerFor } from './callers.ts';
import { operationsOf, type DocumentedOperation, type OperationKey } from '../document.ts';
import { ask } from './request.ts';
import { ORDER, setStage, type Stage } from './stage.ts';
import { TABLE } from './table.ts';

/* Somebody holds every row of globex, as a long transaction would. Who waits for that has touched what is not his. */

/** Whoever waits, waits for longer than this takes. */
const PATIENT = { DATABASE_STATEMENT_TIMEOUT_MS: '120000' };

let stage: Stage;
let documented: Map<OperationKey, DocumentedOperation>;
let proxy: BreakingProxy;
/** Loses its connections when a test says so. */
let fragile: Service;
let holder: pg.Client;

beforeAll(async () => {
  stage = await setStage(PATIENT);
  documented = await operationsOf(stage.node.url);
  proxy = await BreakingProxy.start(stage.database);
  fragile = await startService(
    { ...PATIENT, NODE_NAME: 'fragile' },
    { database: { ...stage.database, urls: proxy.urls } },
  );
  holder = new pg.Client({ connectionString: stage.database.url });
  await holder.connect();
  await holder.query('begin');
  for (const table of stage.rows.tables)
    await holder.query(`select from "${table}" where tenant_id = 'globex' for update`);
});
afterAll(async () => {
  await holder.end();
  await fragile.close();
  await proxy.close();
  await stage.close();
});

describe('while all rows of globex are held', () => {
  let waiting: Promise<{ status: number }>;
  test('a publish of globex waits', async () => {
    waiting = post(`${stage.node.url}/v1/notifications`, stage.globex.billing, ORDER);
    await eventually(async () => {
      const [row] = await stage.database.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
      );
      expect(row).toBeDefined();
    });
  });

  test.each((Object.keys(TABLE) as OperationKey[]).filter((key) => key.includes(' /v1/')))(
    'acme does not wait at %s',
    async (key) => {
      const token = callerFor(documented.get(key)?.access ?? 'public', stage.acme);
      const answer = await ask(stage.node.url, key, token, goodRequest(TABLE, key, stage, token));
      expect(answer.status).toBeLessThan(300);
    },
  );

  test.each(['answer', 'statement'] as const)(
    'acme does not wait to learn what became of a publish whose %s was lost',
    async (loss) => {
      const lost = proxy.lose(loss, 'append');
      const { status } = await post(`${fragile.url}/v1/notifications`, stage.acme.billing, ORDER);
      await lost;
      expect(status).toBe(201);
    },
  );

  test('and only then globex goes on', async () => {
    await holder.query('commit');
    expect((await waiting).status).toBe(201);
  });
});
