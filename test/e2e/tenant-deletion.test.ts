import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { Quotas } from '../../src/log/quota.ts';
import { DATA_OF_TENANT } from '../../src/privacy/inventory.ts';
import { revokeUser } from '../support/acts.ts';
import { adminOf, call, operatorOf, readerOf, type Page } from '../support/admin.ts';
import { get, post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { createDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { eraseUser, holding, rowsOf, tablesOfTenants, untilHeld } from '../support/privacy.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const PATIENCE_MS = 60_000;
jest.setTimeout(5 * PATIENCE_MS);

interface TenantBody {
  readonly id: string;
  readonly status: string;
  readonly name: string | null;
}

const admin = adminOf('operations');
const remove = (url: string, tenant: string) => call('DELETE', `${url}/v1/tenants/${tenant}`, admin);
const find = (url: string, tenant: string) => get<TenantBody>(`${url}/v1/tenants/${tenant}`, admin);
const create = (url: string, tenant: string) => call('POST', `${url}/v1/tenants`, admin, { id: tenant });

/** Deletes a tenant and waits until that is done. */
async function deleteWhole(url: string, tenant: string): Promise<void> {
  const { status } = await remove(url, tenant);
  expect([202, 204]).toContain(status);
  await eventually(async () => expect((await find(url, tenant)).body.status).toBe('deleted'), {
    within: PATIENCE_MS,
  });
}

const item = (user: string) => ({ to: { user }, type: 't', data: user });

async function openLive(
  url: string,
  tenant: string,
  user: string,
  lastEventId?: string,
): Promise<StreamClient> {
  const stream = await StreamClient.open(
    url,
    userToken({ tenant, user, device: 'phone', topics: ['news'] }),
    lastEventId === undefined ? {} : { lastEventId },
  );
  await stream.untilEvent('caught-up');
  return stream;
}

/** Something of a tenant in every table that has tenants. */
async function furnish(service: Service, tenant: string): Promise<void> {
  const { url, database } = service;
  const publisher = serviceToken({ tenant });
  const stream = await openLive(url, tenant, 'alice');
  const { body } = await post(`${url}/v1/notifications`, publisher, item('alice'), {
    'idempotency-key': 'k',
  });
  const last = await publish(url, publisher, { to: { everyone: true }, type: 't', data: 1 });
  await stream.untilNotifications(2);
  const token = userToken({ tenant, device: 'phone' });
  expect((await post(`${url}/v1/acks`, token, { upTo: last.position })).status).toBe(204);
  expect((await post(`${url}/v1/stream/tickets`, token, {})).status).toBe(201);
  const marks = { items: [{ id: body['id'], archived: true }] };
  expect((await post(`${url}/v1/inbox/marks`, token, marks)).status).toBe(200);
  await revokeUser(service, tenant, 'alice', new Date('2001-01-01'));
  await eraseUser(url, tenant, 'nobody');
  expect((await call('POST', `${url}/v1/users/bob/disconnect`, operatorOf(tenant))).status).toBe(204);
  // Of a node that was killed.
  await database.query(`insert into connection_counts values ($1, 'gone', 1)`, [tenant]);
  await stream.cut();
  await eventually(async () => {
    const rows = await database.query('select from connections where tenant_id = $1 and until is not null', [
      tenant,
    ]);
    expect(rows).toHaveLength(1);
    const counted = await database.query(
      `select from connection_counts where tenant_id = $1 and node <> 'gone'`,
      [tenant],
    );
    expect(counted).toEqual([]);
  });
}

test('every table with rows of tenants is among those that are emptied', async () => {
  const database = await createDatabase();
  const tables = await tablesOfTenants(database);
  const kept = ['audit_log', 'tenant_logs', 'tenants'];
  expect(
    Object.values<{ table: string }>(DATA_OF_TENANT)
      .map(({ table }) => table)
      .concat(kept)
      .toSorted(),
  ).toEqual(tables);
  await database.drop();
});

describe('a tenant that is deleted', () => {
  let here: Service;
  let there: Service;
  beforeAll(async () => {
    here = await startService();
    there = await startService({ NODE_NAME: 'there' }, { database: here.database });
  });
  afterAll(async () => {
    await there.close();
    await here.close();
  });

  test('leaves no row but the record of it and the row that says so, and nothing of another tenant', async () => {
    await furnish(here, 'acme');
    await furnish(here, 'globex');
    const foreign = await rowsOf(here.database, 'globex');
    const before = await rowsOf(here.database, 'acme');
    // There is something to erase in every table.
    for (const [table, rows] of Object.entries(before))
      expect([table, rows.length > 0]).toEqual([table, true]);

    await deleteWhole(there.url, 'acme');
    const {
      audit_log: acts = [],
      tenants = [],
      erasures = [],
      ...rest
    } = await rowsOf(here.database, 'acme');
    for (const [table, rows] of Object.entries(rest)) expect({ table, rows }).toEqual({ table, rows: [] });
    expect(tenants.map((row) => JSON.parse(row) as object)).toMatchObject([
      { status: 'deleted', name: null, kept_days: null, cors_origins: [] },
    ]);
    // That of the deletion itself, for a day.
    expect(erasures.map((row) => JSON.parse(row) as object)).toMatchObject([
      { digest: '\\x', user_id: null },
    ]);
    expect(acts).toEqual(expect.arrayContaining(before['audit_log'] ?? []));
    expect(await rowsOf(here.database, 'globex')).toEqual(foreign);
  });

  test('leaves the record of who ordered it and what is gone', async () => {
    const { body } = await get<Page<{ action: string; target: string; before: object; after: object }>>(
      `${there.url}/v1/tenants/acme/audit?limit=2`,
      admin,
    );
    const actor = { kind: 'service', tenant: 'operations', subject: 'console', issuer: 'tidings' };
    expect(body.items).toMatchObject([
      {
        action: 'tenant.deleted',
        target: 'acme',
        actor,
        after: { erased: { notifications: 2, devices: 1 } },
      },
      {
        action: 'tenant.delete',
        target: 'acme',
        actor,
        before: { status: 'active' },
        after: { status: 'deleting' },
      },
    ]);
  });

  test('is shown as deleted, and is not in the list of tenants', async () => {
    expect(await find(there.url, 'acme')).toMatchObject({ status: 200, body: { status: 'deleted' } });
    const list = async (query: string) =>
      (await get<Page<TenantBody>>(`${here.url}/v1/tenants${query}`, admin)).body.items.map(({ id }) => id);
    expect(await list('')).not.toContain('acme');
    expect(await list('?status=deleted')).toEqual(['acme']);
  });

  test('does not come back to life by a token that is still good, on any node, nor after a restart', async () => {
    const refused = { status: 403, body: { code: 'tenant_unknown' } };
    const late = await startService({ NODE_NAME: 'late' }, { database: here.database });
    for (const { url } of [here, there, late]) {
      const publisher = serviceToken({ tenant: 'acme' });
      expect(await post(`${url}/v1/notifications`, publisher, item('alice'))).toMatchObject(refused);
      expect(await get(`${url}/v1/audit`, readerOf('acme'))).toMatchObject(refused);
      expect(await eraseUser(url, 'acme', 'alice')).toMatchObject(refused);
      const stream = await StreamClient.open(url, userToken({ tenant: 'acme' }));
      expect(stream.status).toBe(403);
      await stream.closed;
    }
    await late.close();
    const { tenant_logs: logs, notifications, devices } = await rowsOf(here.database, 'acme');
    expect([logs, notifications, devices]).toEqual([[], [], []]);
  });

  test('may be deleted again, and one that never was is not found', async () => {
    expect((await remove(here.url, 'acme')).status).toBe(204);
    expect(await remove(here.url, 'never-was')).toMatchObject({ status: 404, body: { code: 'not_found' } });
    const deleted = await here.database.query(
      `select from audit_log where tenant_id = 'acme' and action = 'tenant.delete'`,
    );
    expect(deleted).toHaveLength(1);
  });

  test('cannot be changed, only made anew, and then goes on behind where it was', async () => {
    const patch = await call('PATCH', `${here.url}/v1/tenants/acme`, admin, { status: 'active' });
    expect(patch).toMatchObject({ status: 409, body: { code: 'tenant_deleted' } });
    const [end] = await here.database.query<{ last_head: number }>(
      `select last_head from tenants where tenant_id = 'acme'`,
    );
    expect(end?.last_head).toBeGreaterThan(0);
    expect(await create(there.url, 'acme')).toMatchObject({ status: 201, body: { status: 'active' } });
    await here.app.get(ChangeFeed).now();
    const anew = await publish(here.url, serviceToken({ tenant: 'acme' }), item('alice'));
    expect(Number(anew.position)).toBeGreaterThan(Number(end?.last_head));

    // Whoever has a position of the old log is told that what followed it is gone; and there is nothing of old.
    const old = await openLive(there.url, 'acme', 'alice', '5');
    expect(old.named('sync')).toMatchObject([{ resume: 'gap', from: '5', oldest: String(end?.last_head) }]);
    expect(old.notifications.map(({ position }) => position)).toEqual([anew.position]);
    await old.cut();
  });

  test('ends its streams on every node, and those of others go on', async () => {
    const theirs = [await openLive(here.url, 'initech', 'a'), await openLive(there.url, 'initech', 'b')];
    const others = [await openLive(here.url, 'globex', 'a'), await openLive(there.url, 'globex', 'b')];
    await publish(here.url, serviceToken({ tenant: 'initech' }), item('a'));
    await deleteWhole(here.url, 'initech');
    for (const stream of theirs) {
      await stream.closed;
      expect(stream.named('bye')).toMatchObject([{ reason: 'revoked', reconnect: false }]);
    }
    await publish(there.url, serviceToken({ tenant: 'globex' }), {
      to: { everyone: true },
      type: 't',
      data: 'on',
    });
    for (const stream of others) {
      await stream.until(() => stream.notifications.some(({ data }) => data === 'on'), 'what is new');
      await stream.cut();
    }
    const { sends, connections, devices } = await rowsOf(here.database, 'initech');
    expect([sends, connections, devices]).toEqual([[], [], []]);
  });

  test('refuses what waited for it on another node, and is not made anew before it is gone', async () => {
    const tenant = 'waiting';
    const publisher = serviceToken({ tenant });
    await publish(there.url, publisher, item('alice'));
    const release = await holding(
      here.database,
      `select from tenant_logs where tenant_id = '${tenant}' for update`,
    );
    const first = post(`${there.url}/v1/notifications`, publisher, item('alice'));
    await untilHeld(here.database, 'with log as materialized');
    const second = post(`${there.url}/v1/notifications`, publisher, item('alice'));
    await eventually(async () => {
      const metrics = await (await fetch(`${there.url}/metrics`)).text();
      expect(metrics).toContain('\ntidings_ingest_queue 2\n');
    });
    const deleting = remove(here.url, tenant);
    expect(await second).toMatchObject({ status: 403, body: { code: 'tenant_unknown' } });
    expect((await find(here.url, tenant)).body.status).toBe('deleting');
    expect(await create(here.url, tenant)).toMatchObject({ status: 409, body: { code: 'tenant_deleted' } });
    const patch = await call('PATCH', `${here.url}/v1/tenants/${tenant}`, admin, { name: 'x' });
    expect(patch).toMatchObject({ status: 409, body: { code: 'tenant_deleted' } });
    await release();
    // It was stored before the end, and is gone with the rest.
    expect((await first).status).toBe(201);
    expect([202, 204]).toContain((await deleting).status);
    await deleteWhole(here.url, tenant);
    expect((await rowsOf(here.database, tenant))['notifications']).toEqual([]);
    // What it had reserved of the quota is given back: should the tenant be made anew, it has all of its own.
    const quotas = there.app.get(Quotas);
    await eventually(async () => {
      const { left, limits } = await quotas.state(tenantIdSchema.parse(tenant));
      expect(left).toBe(limits.burst);
    });
  });
});
