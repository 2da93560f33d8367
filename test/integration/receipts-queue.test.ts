import { randomUUID } from 'node:crypto';
import { Logger } from '@nestjs/common';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { readConfig } from '../../src/core/config.ts';
import type { TenantId } from '../../src/core/identifiers.ts';
import { type Reader, Receipts } from '../../src/receipts/receipts.ts';
import { asPosition, START } from '../../src/core/position.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { settingsOf } from '../support/database.ts';
import { deviceId, LedgerBench, userId, type LedgerNode } from '../support/ledger.ts';
import { holding, untilHeld } from '../support/privacy.ts';
import { TEST_SECRET } from '../support/tokens.ts';

let bench: LedgerBench;
let node: LedgerNode;
beforeAll(async () => {
  Logger.overrideLogger(false);
  bench = await LedgerBench.open();
  node = bench.node();
  await node.partitions.ensureCovering(START);
});
afterAll(async () => {
  await bench.close();
});

/** Nothing is written before `flush`. */
const ledgerOn = ({ ledger }: LedgerNode) =>
  new Receipts(
    ledger,
    new Metrics(),
    readConfig({ ...settingsOf(bench.database), JWT_SECRET: TEST_SECRET, NODE_NAME: 'n' }),
  );

const reader = (tenantId: TenantId, user: string, openedAt: number): Reader => ({
  connectionId: randomUUID(),
  tenantId,
  user: userId(user),
  device: deviceId('phone'),
  topics: [],
  autoAck: true,
  openedAt,
});

/** A stream that opened, wrote and ended. */
function live(ledger: Receipts, of: Reader): void {
  ledger.opened(of, of.openedAt, START);
  ledger.sent(of, { from: START, to: asPosition(5), at: of.openedAt, replayed: false });
  ledger.ended(of, of.openedAt + 1, asPosition(5), 'client');
}

const stored = async (tenant: TenantId) =>
  (
    await bench.database.query<{ who: string }>(
      `select c.user_id || ' ' || extract(epoch from c.since)::int as who
       from connections c join sends s using (tenant_id, connection_id) where c.tenant_id = $1 and c.until is not null order by 1`,
      [tenant],
    )
  ).map(({ who }) => who);

test('what waits for the ledger of streams that are forgotten is not written, and all else is', async () => {
  const [tenant, other] = [await bench.tenant(), await bench.tenant()];
  const ledger = ledgerOn(node);
  for (const user of ['alice', 'bob'])
    for (const openedAt of [1_000, 2_000]) live(ledger, reader(tenant, user, openedAt));
  live(ledger, reader(other, 'alice', 1_000));
  await ledger.purge(tenant, ({ user, openedAt }) => user === 'alice' && openedAt <= 1_000);
  await ledger.flush();
  expect(await stored(tenant)).toEqual(['alice 2', 'bob 1', 'bob 2']);
  expect(await stored(other)).toEqual(['alice 1']);
});

/** A flush that fails; `meanwhile` runs while it is under way. */
async function failToFlush(ledger: Receipts, meanwhile: () => Promise<void> | undefined): Promise<void> {
  const release = await holding(bench.database, 'lock table sends in exclusive mode');
  const flushing = ledger.flush();
  await untilHeld(bench.database, 'insert into sends');
  const done = meanwhile();
  await bench.database.query(
    `select pg_cancel_backend(pid) from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock' and query ilike '%insert into sends%'`,
  );
  await Promise.all([flushing, done]);
  await release();
}

test('what is more than one statement writes is written whole, also when the second fails at first', async () => {
  const tenant = await bench.tenant();
  const ledger = ledgerOn(node);
  const users = Array.from({ length: 1_200 }, (_, n) => `user-${String(n).padStart(4, '0')}`);
  for (const user of users) live(ledger, reader(tenant, user, 1_000));
  // One of the second part: the first is in the database by then, and is not written again.
  await bench.database.query(
    `create function fail_once() returns trigger language plpgsql as $$ begin raise exception 'not yet'; end $$;
     create trigger fail_once before insert on sends for each row when (new.user_id = 'user-0700') execute function fail_once()`,
  );
  await ledger.flush();
  const sent = `select from sends where tenant_id = $1`;
  expect(await bench.database.query(sent, [tenant])).toHaveLength(500);
  await bench.database.query('drop function fail_once cascade');
  await ledger.flush();
  expect(await stored(tenant)).toEqual(users.map((user) => `${user} 1`));
});

test('what could not be written when it was forgotten is not written later', async () => {
  const tenant = await bench.tenant();
  const ledger = ledgerOn(node);
  live(ledger, reader(tenant, 'alice', 1_000));
  live(ledger, reader(tenant, 'bob', 1_000));
  await failToFlush(ledger, () => ledger.purge(tenant, ({ user }) => user === 'alice'));
  await ledger.flush();
  expect(await stored(tenant)).toEqual(['bob 1']);
});

test('what could not be written for half a day is given up, and what comes after that is written', async () => {
  const tenant = await bench.tenant();
  const ledger = ledgerOn(node);
  live(ledger, reader(tenant, 'alice', 1_000));
  const began = performance.now();
  await failToFlush(ledger, () => undefined);
  const clock = jest.spyOn(performance, 'now');
  try {
    clock.mockReturnValue(began + 13 * 3_600_000);
    await ledger.flush();
    expect(await stored(tenant)).toEqual([]);
    live(ledger, reader(tenant, 'bob', 1_000));
    await ledger.flush();
    expect(await stored(tenant)).toEqual(['bob 1']);
  } finally {
    clock.mockRestore();
  }
});
