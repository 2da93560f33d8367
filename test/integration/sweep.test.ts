import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { daysAgo, OldLog } from '../support/maintenance.ts';

let log: OldLog;
beforeEach(async () => {
  log = await OldLog.open();
});
afterEach(async () => {
  await log.close();
});

const runOnce = () => log.node().maintenance.runOnce();
const column = async (sql: string): Promise<unknown[]> =>
  (await log.database.query<{ it: unknown }>(sql)).map(({ it }) => it);

async function key(name: string, age: string): Promise<void> {
  await log.database.query(
    `insert into idempotency_keys (tenant_id, publisher, key, fingerprint, first_position, ids, created_at)
     values ('acme', 'p', $1, '', 1, '{}', now() - $2::interval)`,
    [name, age],
  );
}

async function device(tenant: string, name: string, cursor: number, idle: string): Promise<void> {
  await log.database.query(
    `insert into devices (tenant_id, user_id, device_id, cursor, last_seen_at) values ($1, 'u', $2, $3, now() - $4::interval)`,
    [tenant, name, cursor, idle],
  );
}

/** `since` and `until` are ages; the reason names the connection. */
async function connection(
  tenant: string,
  name: string,
  node: string,
  since: string,
  until: string | null = null,
): Promise<void> {
  await log.database.query(
    `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, until, position)
     values ($1, gen_random_uuid(), $2, 'd', $3, now() - $4::interval, now() - $5::interval, 0)`,
    [tenant, name, node, since, until],
  );
}

async function nodeRow(name: string, started: string, seen: string): Promise<void> {
  await log.database.query(
    `insert into nodes (node, started_at, seen_at) values ($1, now() - $2::interval, now() - $3::interval)`,
    [name, started, seen],
  );
}

describe('revocations, orders to streams, tickets and erasures', () => {
  test('are forgotten when they have ended, a revocation an hour later', async () => {
    for (const end of ['-61 minutes', '-59 minutes', '1 minute']) {
      await log.database.query(
        `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
         values ('acme', gen_random_uuid(), 'token', $1::text, now() + $1::text::interval)`,
        [end],
      );
    }
    for (const end of ['-1 second', '1 minute']) {
      await log.database.query(
        `insert into stream_commands (tenant_id, order_id, kind, user_id, expires_at)
         values ('acme', gen_random_uuid(), 'disconnect', $1::text, now() + $1::text::interval)`,
        [end],
      );
      await log.database.query(
        `insert into stream_tickets (tenant_id, hash, principal, expires_at)
         values ('acme', convert_to($1::text, 'UTF8'), $1::text, now() + $1::text::interval)`,
        [end],
      );
      await log.database.query(
        `insert into erasures (tenant_id, erasure_id, digest, ordered_by, worker, done_at, expires_at)
         values ('acme', gen_random_uuid(), sha256('u'), $1::text, gen_random_uuid(), now(), now() + $1::text::interval)`,
        [end],
      );
    }
    await log.database.query(
      `insert into erasures (tenant_id, erasure_id, digest, user_id, ordered_by, worker, created_at)
       values ('acme', gen_random_uuid(), sha256('u'), 'u', 'still running', gen_random_uuid(), now() - interval '3 days')`,
    );
    expect(await runOnce()).toMatchObject({
      revocationsForgotten: 1,
      streamCommandsForgotten: 1,
      streamTicketsForgotten: 1,
      erasuresForgotten: 1,
      failed: [],
    });
    expect(await column('select ordered_by as it from erasures order by 1')).toEqual([
      '1 minute',
      'still running',
    ]);
    expect(await column('select subject as it from revocations order by expires_at')).toEqual([
      '-59 minutes',
      '1 minute',
    ]);
    expect(await column('select user_id as it from stream_commands')).toEqual(['1 minute']);
    expect(await column('select principal as it from stream_tickets')).toEqual(['1 minute']);
  });
});

describe('idempotency keys', () => {
  test('are forgotten after their window and not before', async () => {
    await key('old', '24 hours 1 minute');
    await key('young', '23 hours 59 minutes');
    expect(await runOnce()).toMatchObject({ idempotencyKeysForgotten: 1, failed: [] });
    expect(await column('select key as it from idempotency_keys')).toEqual(['young']);
  });

  test('are all forgotten in one round, however many there are', async () => {
    await log.database.query(
      `insert into idempotency_keys (tenant_id, publisher, key, fingerprint, first_position, ids, created_at)
       select 'acme', 'p', n::text, '', 1, '{}', now() - interval '2 days' from generate_series(1, 2500) n`,
    );
    expect(await runOnce()).toMatchObject({ idempotencyKeysForgotten: 2500, failed: [] });
  });
});

describe('devices', () => {
  test('are forgotten when they are idle and below the floor, and only then', async () => {
    const floor = daysAgo(30);
    await log.database.query(
      `insert into tenant_logs (tenant_id, head, floor) values ('acme', $1, $1), ('other', $1, 0)`,
      [floor],
    );
    await device('acme', 'idle-below', floor - 1, '91 days');
    await device('acme', 'idle-at', floor, '91 days');
    await device('acme', 'idle-above', floor + 1, '91 days');
    await device('acme', 'active-below', floor - 1, '89 days');
    await device('other', 'idle-nothing-lost', 0, '91 days');
    await device('streamless', 'idle', 0, '91 days');
    expect(await runOnce()).toMatchObject({ devicesForgotten: 1, failed: [] });
    expect(await column('select device_id as it from devices order by 1')).toEqual([
      'active-below',
      'idle',
      'idle-above',
      'idle-at',
      'idle-nothing-lost',
    ]);
  });

  test('that were seen since the floor stay, since history may still show what they were sent', async () => {
    await log.database.query(`insert into tenant_logs (tenant_id, floor) values ('acme', $1)`, [daysAgo(95)]);
    await device('acme', 'seen-before', 1, '96 days');
    await device('acme', 'seen-since', 1, '94 days');
    expect(await runOnce()).toMatchObject({ devicesForgotten: 1, failed: [] });
    expect(await column('select device_id as it from devices')).toEqual(['seen-since']);
  });

  test('of every tenant are reached, many of one tenant and many tenants', async () => {
    await log.database.query(
      `insert into tenant_logs (tenant_id, floor) select 't' || n, $1 from generate_series(1, 250) n`,
      [daysAgo(30)],
    );
    await log.database.query(
      `insert into devices (tenant_id, user_id, device_id, cursor, last_seen_at)
       select case when n <= 250 then 't' || n else 't7' end, 'u' || n, 'd', 1, now() - interval '100 days' from generate_series(1, 2600) n`,
    );
    expect(await runOnce()).toMatchObject({ devicesForgotten: 2600, failed: [] });
  });

  test('that come back while they are swept stay', async () => {
    await log.database.query(`insert into tenant_logs (tenant_id, floor) values ('acme', $1)`, [daysAgo(30)]);
    await device('acme', 'back', 1, '91 days');
    await device('acme', 'away', 1, '91 days');
    const back = await log.client();
    await back.query('begin');
    await back.query(`update devices set last_seen_at = now() where device_id = 'back'`);
    expect(await runOnce()).toMatchObject({ devicesForgotten: 1, failed: [] });
    await back.query('commit');
    expect(await column('select device_id as it from devices')).toEqual(['back']);
  });
});

describe('connections', () => {
  test('are forgotten when they ended before what their tenant keeps', async () => {
    await log.tenant('default');
    await log.tenant('long', { keptDays: 60 });
    await nodeRow('n', '100 days', '0');
    await connection('default', 'ended-long-ago', 'n', '40 days', '31 days');
    await connection('default', 'began-long-ago', 'n', '40 days', '29 days');
    await connection('default', 'open', 'n', '40 days');
    await connection('long', 'kept-longer', 'n', '40 days', '31 days');
    await connection('long', 'too-old-even-so', 'n', '70 days', '61 days');
    expect(await runOnce()).toMatchObject({ connectionsForgotten: 2, connectionsEnded: 0, failed: [] });
    expect(await column('select user_id as it from connections order by 1')).toEqual([
      'began-long-ago',
      'kept-longer',
      'open',
    ]);
  });

  test('of a node that fell silent end at its last sign of life', async () => {
    await nodeRow('silent', '2 hours', '61 seconds');
    await nodeRow('alive', '2 hours', '30 seconds');
    await connection('acme', 'lost', 'silent', '1 hour');
    await connection('acme', 'had-ended', 'silent', '1 hour', '30 minutes');
    await connection('acme', 'began-last', 'silent', '61 seconds');
    await connection('acme', 'open', 'alive', '1 hour');
    await connection('acme', 'of-an-unknown-node', 'never-seen', '1 hour');
    await connection('acme', 'of-a-node-to-be-seen', 'never-seen', '1 second');
    await log.database.query(
      `update connections set since = since + interval '500 ms' where user_id = 'began-last'`,
    );
    expect(await runOnce()).toMatchObject({ connectionsEnded: 3, failed: [] });
    const ended = await log.database.query(
      `select c.user_id, c.reason, c.until = greatest(c.since, coalesce(n.seen_at, c.since)) as exact
       from connections c left join nodes n on n.node = c.node where c.until is not null order by 1`,
    );
    expect(ended).toEqual([
      { user_id: 'began-last', reason: 'node-lost', exact: true },
      { user_id: 'had-ended', reason: null, exact: false },
      { user_id: 'lost', reason: 'node-lost', exact: true },
      { user_id: 'of-an-unknown-node', reason: 'node-lost', exact: true },
    ]);
  });

  test('of an earlier process under the name of a node ended when the node started', async () => {
    await nodeRow('n', '10 minutes', '0');
    await connection('acme', 'earlier', 'n', '1 hour');
    await connection('acme', 'now', 'n', '5 minutes');
    expect(await runOnce()).toMatchObject({ connectionsEnded: 1, failed: [] });
    expect(
      await column('select user_id as it from connections join nodes using (node) where until = started_at'),
    ).toEqual(['earlier']);
  });

  test('are all ended, however many a node left', async () => {
    await nodeRow('silent', '2 hours', '1 hour');
    await log.database.query(
      `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position)
       select 't' || n % 7, gen_random_uuid(), 'u', 'd', 'silent', now() - interval '2 hours', 0 from generate_series(1, 2100) n`,
    );
    expect(await runOnce()).toMatchObject({ connectionsEnded: 2100, failed: [] });
  });
});

describe('nodes', () => {
  test('are forgotten a day after they were last seen', async () => {
    await nodeRow('gone', '3 days', '25 hours');
    await nodeRow('quiet', '3 days', '23 hours');
    await nodeRow('alive', '3 days', '0');
    await connection('acme', 'open', 'gone', '2 days');
    for (const node of ['gone', 'quiet'])
      await log.database.query(`insert into connection_counts values ('acme', $1, 1)`, [node]);
    // The round that ends its connections is also the one that may forget it.
    expect(await runOnce()).toMatchObject({ connectionsEnded: 1, nodesForgotten: 1, failed: [] });
    expect(await column('select node as it from nodes order by 1')).toEqual(['alive', 'quiet']);
    expect(await column('select node as it from connection_counts')).toEqual(['quiet']);
  });

  test('stay while a connection of theirs has no end', async () => {
    await nodeRow('gone', '3 days', '25 hours');
    await connection('acme', 'busy', 'gone', '2 days');
    const writer = await log.client();
    await writer.query('begin');
    await writer.query('select from connections for update');
    expect(await runOnce()).toMatchObject({ connectionsEnded: 0, nodesForgotten: 0, failed: [] });
    await writer.query('rollback');
    expect(await runOnce()).toMatchObject({ connectionsEnded: 1, nodesForgotten: 1, failed: [] });
  });
});
