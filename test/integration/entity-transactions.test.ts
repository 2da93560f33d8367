import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { EntityManager } from 'typeorm';
import { COMMAND, recordAction } from '../../src/audit/audit.store.ts';
import { IssuerEntity } from '../../src/auth/issuers.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { errorCode, isConnectionLoss, isUnavailable } from '../../src/postgres/errors.ts';
import { TenantEntity } from '../../src/tenants/tenants.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { forgetStatements } from '../support/statement-log.ts';
import { eventually } from '../support/eventually.ts';
import { openTransactions, type TestTransactions } from '../support/pools.ts';

const acme = tenantIdSchema.parse('acme');
const globex = tenantIdSchema.parse('globex');

let database: TestDatabase;
const opened: TestTransactions[] = [];
beforeEach(async () => {
  database = await createDatabase();
  await database.query(`insert into tenants (tenant_id, name) values ('acme', 'Acme'), ('globex', 'Globex')`);
});
afterEach(async () => {
  for (const { end } of opened.splice(0)) await end();
  // They ask for all rows, to see which are shown.
  await forgetStatements(database.url);
  await database.drop();
});

async function open(options: Parameters<typeof openTransactions>[1] = {}): Promise<TestTransactions> {
  const transactions = await openTransactions(database, options);
  opened.push(transactions);
  return transactions;
}

const pidOf = async (entities: EntityManager): Promise<number> => {
  const [row] = await entities.query<{ pid: number }[]>('select pg_backend_pid() as pid');
  return row?.pid ?? 0;
};
const kill = (pid: number) => database.query('select pg_terminate_backend($1)', [pid]);
const errorOf = (work: Promise<unknown>) =>
  work.then(
    () => undefined,
    (error: unknown) => error,
  );

describe('a transaction of a tenant', () => {
  test('sees and changes its own rows only, and leaves no name behind', async () => {
    const { tenants } = await open({ connections: 1 });
    const names = (tenantId: typeof acme) =>
      tenants.transaction(tenantId, async ({ entities }) => {
        await entities.update(TenantEntity, { status: 'active' }, { name: `of ${tenantId}` });
        return (await entities.find(TenantEntity)).map(({ name }) => name);
      });
    expect([await names(acme), await names(globex)]).toEqual([['of acme'], ['of globex']]);
    const foreign = tenants.transaction(acme, ({ run }) => run(globex, { name: 'look', text: 'select $1' }));
    await expect(foreign).rejects.toThrow('asked about another');
    const forged = tenants.transaction(acme, ({ entities }) =>
      recordAction(entities, {
        tenantId: globex,
        actor: COMMAND,
        remoteAddress: null,
        requestId: null,
        action: 'tenant.update',
        target: 'globex',
        before: null,
        after: null,
      }),
    );
    expect(errorCode(await errorOf(forged))).toBe('42501');
  });

  test('is undone as a whole', async () => {
    const { tenants } = await open();
    const undone = tenants.transaction(acme, async ({ entities }) => {
      await entities.update(TenantEntity, { id: acme }, { name: 'other' });
      throw new Error('undone');
    });
    await expect(undone).rejects.toThrow('undone');
    expect(await database.query(`select name from tenants where tenant_id = 'acme'`)).toEqual([
      { name: 'Acme' },
    ]);
  });

  test('leaves connections for other tenants', async () => {
    const { tenants } = await open({ connections: 2 });
    const held = Promise.withResolvers<void>();
    const first = tenants.transaction(acme, () => held.promise);
    const second = tenants.transaction(acme, () => Promise.resolve());
    await tenants.transaction(globex, () => Promise.resolve());
    held.resolve();
    await Promise.all([first, second]);
  });
});

describe('a transaction that loses its connection', () => {
  test('says so between two statements, and the next one gets another connection', async () => {
    const { tenants } = await open({ connections: 1 });
    const lost = await errorOf(
      tenants.transaction(acme, async ({ entities }) => {
        await kill(await pidOf(entities));
        for (;;) await entities.find(TenantEntity);
      }),
    );
    expect(isConnectionLoss(lost)).toBe(true);
    expect(await tenants.transaction(acme, ({ entities }) => entities.count(TenantEntity))).toBe(1);
  });

  test('says so when nothing was under way', async () => {
    const { tenants } = await open({ connections: 1 });
    const lost = await errorOf(
      tenants.transaction(acme, async ({ entities }) => {
        await kill(await pidOf(entities));
        await eventually(() => expect(entities.queryRunner?.isReleased).toBe(true));
        await entities.find(TenantEntity);
      }),
    );
    expect(isConnectionLoss(lost)).toBe(true);
    expect(await tenants.transaction(acme, ({ entities }) => entities.count(TenantEntity))).toBe(1);
  });

  test('does not leave a statement behind on which the next one would wait', async () => {
    const { registry } = await open({ connections: 1, answerTimeoutMs: 1_000 });
    const lost = await errorOf(registry.transaction((entities) => entities.query('select pg_sleep(600)')));
    expect(isConnectionLoss(lost)).toBe(true);
    expect(await registry.transaction((entities) => entities.count(IssuerEntity))).toBe(0);
  });
});

test('a transaction that takes too long is ended by the limit of the statement', async () => {
  const { registry } = await open({ connections: 1, statementTimeoutMs: 100 });
  const late = await errorOf(registry.transaction((entities) => entities.query('select pg_sleep(600)')));
  expect([errorCode(late), isUnavailable(late), isConnectionLoss(late)]).toEqual(['57014', true, false]);
});
