import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type AuditEntry, type AuditFilters, AuditStore, recordAction } from '../../src/audit/audit.store.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { openPools, openTransactions, type TestPools, type TestTransactions } from '../support/pools.ts';

const acme = tenantIdSchema.parse('acme');
const globex = tenantIdSchema.parse('globex');
const ALL: AuditFilters = { action: undefined, since: undefined, until: undefined };

let database: TestDatabase;
let pools: TestPools;
let transactions: TestTransactions;
let audit: AuditStore;
beforeEach(async () => {
  database = await createDatabase();
  pools = openPools(database, 2);
  transactions = await openTransactions(database);
  audit = new AuditStore(pools.tenant);
});
afterEach(async () => {
  await transactions.end();
  await pools.end();
  await database.drop();
});

const entry = (more: Partial<AuditEntry> = {}): AuditEntry => ({
  tenantId: acme,
  actor: { tenantId: acme, subject: 'console', issuer: 'tidings' },
  remoteAddress: '192.0.2.1',
  requestId: 'r-1',
  action: 'tenant.update',
  target: 'acme',
  before: { keptDays: null },
  after: { keptDays: 30 },
  ...more,
});

const record = (more: Partial<AuditEntry> = {}) => {
  const made = entry(more);
  return transactions.tenants.transaction(made.tenantId, ({ entities }) => recordAction(entities, made));
};

describe('the audit log', () => {
  test('gives back what was recorded', async () => {
    const before = Date.now();
    await record();
    const [found, ...others] = await audit.page(acme, ALL, undefined, 10);
    expect(others).toEqual([]);
    expect(found).toEqual({ ...entry(), id: expect.any(String), at: expect.any(Date) });
    // The server of the tests has the clock of this machine.
    expect(found?.at.getTime()).toBeGreaterThanOrEqual(before);
    expect(found?.at.getTime()).toBeLessThanOrEqual(Date.now());
  });

  test.each([
    ['an update', `update audit_log set after = null`],
    ['an update of nothing', `update audit_log set after = null where false`],
    ['a removal', `delete from audit_log`],
    ['an emptying', `truncate audit_log`],
    ['a removal by a merge', `merge into audit_log a using (select 1) s on true when matched then delete`],
  ])('is never changed: the database refuses %s', async (_, sql) => {
    await record();
    await expect(database.query(sql)).rejects.toMatchObject({
      code: '42501',
      message: 'the audit log is append-only',
    });
    expect(await audit.page(acme, ALL, undefined, 10)).toMatchObject([{ after: { keptDays: 30 } }]);
  });

  test('has nothing of an act that was undone', async () => {
    const undone = transactions.tenants.transaction(acme, async ({ entities }) => {
      await recordAction(entities, entry());
      throw new Error('undone');
    });
    await expect(undone).rejects.toThrow('undone');
    expect(await audit.page(acme, ALL, undefined, 10)).toEqual([]);
  });

  test('is read newest first, in pages, each tenant by itself', async () => {
    for (const target of ['a', 'b', 'c', 'd']) {
      await record({ target });
      await record({ tenantId: globex, target: `globex ${target}` });
    }
    const first = await audit.page(acme, ALL, undefined, 3);
    expect(first.map(({ target }) => target)).toEqual(['d', 'c', 'b']);
    const second = await audit.page(acme, ALL, first.at(-1)?.id, 3);
    expect(second.map(({ target }) => target)).toEqual(['a']);
  });

  test('is filtered by action and by time, from inclusive and to exclusive', async () => {
    await record({ action: 'tenant.create', target: 'first' });
    await record({ action: 'tenant.update', target: 'second' });
    const [second, first] = await audit.page(acme, ALL, undefined, 10);
    if (first === undefined || second === undefined) throw new Error('there are two');
    const targets = async (filters: Partial<AuditFilters>) =>
      (await audit.page(acme, { ...ALL, ...filters }, undefined, 10)).map(({ target }) => target);
    expect(await targets({ action: 'tenant.create' })).toEqual(['first']);
    expect(await targets({ since: first.at.getTime() })).toEqual(['second', 'first']);
    expect(await targets({ since: second.at.getTime() + 1 })).toEqual([]);
    expect(await targets({ until: first.at.getTime() })).toEqual([]);
    expect(await targets({ until: second.at.getTime() + 1 })).toEqual(['second', 'first']);
    // Years that RFC 3339 can write, with an offset, and PostgreSQL's calendar does not have.
    expect(
      await targets({
        since: Date.parse('0000-01-01T00:00:00Z'),
        until: Date.parse('9999-12-31T23:00:00-10:00'),
      }),
    ).toHaveLength(2);
  });
});
