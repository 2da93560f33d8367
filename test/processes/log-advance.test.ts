import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { EmbeddedServer, findRunningServer } from '../../src/postgres/embedded-server.ts';
import { AdvanceStore, advance, type Advanced } from '../../src/log/advance.ts';
import { positionOfTime } from '../../src/core/position.ts';
import { daysAgo, OldLog } from '../support/maintenance.ts';

let log: OldLog;
beforeEach(async () => {
  log = await OldLog.open();
});
afterEach(async () => {
  await log.close();
});

async function advanced(aheadSeconds = 0): Promise<Advanced> {
  const { pool, partitions, store } = log.node();
  return await advance(new AdvanceStore(pool), partitions, store, aheadSeconds);
}

describe('advancing the log after it went back in time', () => {
  test('lifts every head to the present and lowers none', async () => {
    const early = daysAgo(-2);
    await log.database.query(`insert into tenant_logs (tenant_id, head) values ('early', $1)`, [early]);
    await log.database.query(
      `insert into tenant_logs (tenant_id, head) select 't' || n, $1 from generate_series(1, 130) n`,
      [daysAgo(1)],
    );
    const before = positionOfTime(Date.now());
    const result = await advanced();
    expect(result).toMatchObject({ lifted: 130, head: early });
    expect(result.target).toBeGreaterThanOrEqual(before);
    const heads = await log.database.query(`select distinct head from tenant_logs order by head`);
    expect(heads).toEqual([{ head: result.target }, { head: early }]);
    expect((await advanced()).target).toBeGreaterThan(result.target);
  });

  test('makes the partitions that the next publishes need, however far it goes', async () => {
    await log.tenant('acme');
    const { head } = await advanced(40 * 86_400);
    if (head === null) throw new Error('there is a tenant');
    await log.notification('acme', head);
    await log.notification('acme', daysAgo(-41));
    expect(head).toBeGreaterThan(daysAgo(-39.9));
  });

  test('waits for a publish that holds a stream, and looks at the head again when it has it', async () => {
    await log.tenant('acme');
    const ahead = daysAgo(-1);
    const publisher = await log.client();
    await publisher.query('begin');
    await publisher.query('update tenant_logs set head = $1', [ahead]);
    const result = advanced();
    await log.waiting('tenant_logs s set head');
    await publisher.query('commit');
    expect(await result).toMatchObject({ lifted: 0, head: ahead });
  });

  test('has nothing to do on an empty database', async () => {
    expect(await advanced()).toMatchObject({ lifted: 0, head: null, headTime: null });
  });
});

test('the embedded server of a service is found while it runs, and not before or after', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'tidings-running-'));
  await chmod(dataDir, 0o755);
  try {
    expect(await findRunningServer(dataDir)).toBeUndefined();
    const server = await EmbeddedServer.start({ dataDir, connections: 10, report: () => undefined });
    try {
      expect(await findRunningServer(dataDir)).toEqual(server.urls);
    } finally {
      await server.stop();
    }
    expect(await findRunningServer(dataDir)).toBeUndefined();
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});
