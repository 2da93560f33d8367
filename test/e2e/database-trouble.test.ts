import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { readySchema } from '../../src/health/health.controller.ts';
import { post, publish, type Answer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/* The database is there, and does not do what it is asked: its disk is full, or somebody holds a lock. */

let service: Service;
/** On the same database, for whom it is too long to wait for a lock. */
let impatient: Service;
let holder: pg.Client;
beforeAll(async () => {
  service = await startService();
  impatient = await startService({ DATABASE_STATEMENT_TIMEOUT_MS: '4000' }, { database: service.database });
  holder = new pg.Client({ connectionString: service.database.url });
});
afterAll(async () => {
  await holder.end();
  await impatient.close();
  await service.close();
});

const send = (tenant: string, key?: string, { url } = service) =>
  post<{ code?: string; detail?: string; position?: string }>(
    `${url}/v1/notifications`,
    serviceToken({ tenant }),
    { to: { user: 'alice' }, type: 't', data: key ?? null },
    key === undefined ? {} : { 'idempotency-key': key },
  );

const expectTold = ({ status, headers, body }: Answer<{ code?: string }>, code: string) => {
  expect({ status, code: body.code }).toEqual({ status: 503, code });
  expect(Number(headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
};

const ready = async ({ url } = service) => {
  const response = await fetch(`${url}/health/ready`);
  expect(response.status).toBe(200);
  return readySchema.parse(await response.json());
};

const copies = async (tenant: string) =>
  (await service.database.query('select from notifications where tenant_id = $1', [tenant])).length;

describe('a disk that is full', () => {
  const TABLES = ['notifications', 'acks', 'devices', 'stream_tickets'];
  const tenant = 'full';
  let position: string;

  beforeAll(async () => {
    ({ position } = await publish(service.url, serviceToken({ tenant }), {
      to: { user: 'alice' },
      type: 't',
      data: 0,
    }));
    const known = await StreamClient.open(service.url, userToken({ tenant }));
    await known.untilEvent('caught-up');
    await known.cut();
    await service.database.query(`
      create function no_room() returns trigger language plpgsql as $$
      begin
        if new.tenant_id = '${tenant}' then
          raise exception 'could not extend file "base/1/2": No space left on device' using errcode = 'disk_full';
        end if;
        return new;
      end $$`);
    for (const table of TABLES)
      await service.database.query(
        `create trigger no_room before insert or update on ${table} for each row execute function no_room()`,
      );
  });

  test('is told as such however often and whatever is asked, is reported, and is over with the first that is stored', async () => {
    for (let n = 0; n < 3; n += 1) expectTold(await send(tenant), 'database_full');
    for (let n = 0; n < 3; n += 1) expectTold(await send(tenant, 'the-same'), 'database_full');
    for (const one of await Promise.all(
      Array.from({ length: 12 }, (_, n) => send(tenant, n % 2 ? `${n}` : undefined)),
    ))
      expectTold(one, 'database_full');
    const user = userToken({ tenant });
    for (let n = 0; n < 2; n += 1) {
      expectTold(await post(`${service.url}/v1/acks`, user, { upTo: position }), 'database_full');
      expectTold(await post(`${service.url}/v1/stream/tickets`, user, {}), 'database_full');
    }
    const newcomer = await StreamClient.open(service.url, user, { query: { device: 'new' } });
    await newcomer.closed;
    expect(newcomer.status).toBe(200);
    expect(newcomer.named('bye')).toMatchObject([{ reason: 'unavailable', reconnect: true }]);
    expect(await copies(tenant)).toBe(1);

    expect(await ready()).toMatchObject({
      status: 'ready',
      database: { reachable: true, writeFailure: { error: '53100' } },
    });

    for (const table of TABLES) await service.database.query(`drop trigger no_room on ${table}`);
    expect((await send(tenant, 'the-same')).status).toBe(201);
    expect(await copies(tenant)).toBe(2);
    expect((await ready()).database).not.toHaveProperty('writeFailure');
  });

  test('is not in the way of what needs none of it', async () => {
    expect((await send('roomy')).status).toBe(201);
  });
});

test('a lock that is held for long is told as such, to the tenant whose row it is, and to no other', async () => {
  const tenant = 'locked';
  expect((await send(tenant)).status).toBe(201);
  await holder.connect();
  await holder.query('begin');
  await holder.query('select from tenant_logs where tenant_id = $1 for update', [tenant]);

  const untilLocked = async (done: () => boolean) =>
    await eventually(async () => {
      const waiting = await service.database.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
      );
      expect(waiting.length > 0 || done()).toBe(true);
    });

  let told = false;
  const answer = send(tenant, 'the-same', impatient).finally(() => {
    told = true;
  });
  await untilLocked(() => told);
  // Should the machine stand still for as long as this service waits, it is asked again; the lock is held all the while.
  await eventually(async () => expect((await send('free', undefined, impatient)).status).toBe(201));
  expectTold(await answer, 'database_busy');
  expect((await answer).body.detail).toMatch(/answers.* lock /);
  expect((await ready(impatient)).database).not.toHaveProperty('writeFailure');

  // Where one waits for as long as the lock is held, another is answered meanwhile.
  let waits = true;
  const patient = send(tenant, 'the-same').finally(() => {
    waits = false;
  });
  await untilLocked(() => false);
  expect((await send('free')).status).toBe(201);
  expect(waits).toBe(true);

  await holder.query('rollback');
  expect((await patient).status).toBe(201);
  expect(await copies(tenant)).toBe(2);
});
