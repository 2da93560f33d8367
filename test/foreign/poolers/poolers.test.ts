import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { listen } from '../../../src/postgres/listener.ts';
import { migrate } from '../../../src/postgres/migrate.ts';
import { withConnection } from '../../../src/postgres/connection.ts';
import { openDatabase } from '../../../src/postgres/open-database.ts';
import { Pool } from '../../../src/postgres/pool.ts';
import { keepSettings } from '../../../src/postgres/session-settings.ts';
import { Maintenance } from '../../../src/maintenance/maintenance.ts';
import { Metrics } from '../../../src/telemetry/metrics.ts';
import { call, operatorOf, readerOf } from '../../support/admin.ts';
import { publish } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../../support/database.ts';
import { eventually } from '../../support/eventually.ts';
import { makeHostile } from '../../support/hostile-settings.ts';
import { describeBehindPgBouncer, startPgBouncer, type PgBouncer } from '../../support/pgbouncer.ts';
import { testConfig } from '../../support/settings.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, TEST_SECRET, userToken } from '../../support/tokens.ts';

/* A pooler lends sessions of the server; what is left on one of them meets whoever gets it next. */

describeBehindPgBouncer((mode) => {
  const settings = {
    // Debian's PgBouncer is older than 1.21, and keeps no statements from one transaction to the next.
    DATABASE_PREPARED_STATEMENTS: String(mode === 'session'),
    RECEIPTS_FLUSH_MS: 20,
  };
  let direct: TestDatabase;
  let pooler: PgBouncer;
  let database: TestDatabase;
  let service: Service;

  beforeAll(async () => {
    direct = await createDatabase();
    await makeHostile(direct, 'database');
    // The owner's login keeps no settings by itself (docs/how-to/deploy.md): of two that migrate at once, one may get a session
    // that was opened for the other and that nobody has set up.
    await withConnection({ url: direct.urls.owner, name: 'test' }, (client) =>
      keepSettings(client, 'DATABASE_OWNER_URL'),
    );
    pooler = await startPgBouncer(direct, mode);
    database = pooler.database;
    // As a start of the service does.
    const config = testConfig({ ...settingsOf(database), ...settings, JWT_SECRET: TEST_SECRET });
    expect((await openDatabase(config, () => undefined)).migrations).toEqual([]);
    service = await startService(settings, { database });
  });
  afterAll(async () => {
    await service.close();
    await pooler.end();
    await direct.drop();
  });

  /** Locks that a session, or a transaction, still has. */
  const locksHeld = async () =>
    await direct.query(`select pid from pg_locks where locktype = 'advisory' and database =
      (select oid from pg_database where datname = current_database())`);

  /** The round that a node begins by itself is over; the next one comes in ten minutes. */
  const firstRound = async ({ app }: Service) => {
    await eventually(async () => {
      const { values } = await app.get(Metrics).maintenanceRounds.get();
      expect(values.some(({ value }) => value > 0)).toBe(true);
    });
    // It is counted shortly before its end: this waits for that, or is a round of its own.
    await app.get(Maintenance).runOnce();
  };

  test('tables are brought up to date as often as somebody asks, also at once', async () => {
    expect(await migrate(database.urls)).toEqual([]);
    expect(await Promise.all([migrate(database.urls), migrate(database.urls)])).toEqual([[], []]);
    expect(await locksHeld()).toEqual([]);
  });

  test('what is published is delivered, resumed, confirmed and remembered', async () => {
    const stream = await StreamClient.open(service.url, userToken());
    await stream.untilEvent('caught-up');
    const send = async (n: number) =>
      await publish(service.url, serviceToken(), { to: { user: 'alice' }, type: 'test', data: { n } });
    // At once, so that several sessions of the server are in use; those of other tenants as well.
    const others = Array.from({ length: 20 }, async (_, n) => {
      const tenant = `other-${n}`;
      return await publish(service.url, serviceToken({ tenant }), {
        to: { everyone: true },
        type: 'test',
        data: n,
      });
    });
    const sent = [await send(1), await send(2), await send(3)];
    await Promise.all(others);
    expect((await stream.untilNotifications(3)).map(({ id }) => id)).toEqual(sent.map(({ id }) => id));
    await stream.cut();

    const again = await StreamClient.open(service.url, userToken(), {
      ...(sent[0] === undefined ? {} : { lastEventId: sent[0].position }),
    });
    expect((await again.untilNotifications(2)).map(({ id }) => id)).toEqual(
      sent.slice(1).map(({ id }) => id),
    );
    expect(again.named('sync')).toMatchObject([{ resume: 'exact' }]);
    const upTo = sent.at(-1)?.position;
    expect((await call('POST', `${service.url}/v1/acks`, userToken(), { upTo })).status).toBe(204);
    await again.cut();
    const { body } = await call('GET', `${service.url}/v1/notifications?user=alice`, readerOf('acme'));
    expect(body).toMatchObject({ items: sent.toReversed().map(({ id }) => ({ id, status: 'delivered' })) });
  });

  test('a revocation holds on a node that starts later', async () => {
    const token = userToken({ tenant: 'revoking', claims: { jti: 'leaked' } });
    const operator = operatorOf('revoking');
    const revocation = { token: { jti: 'leaked' } };
    expect((await call('POST', `${service.url}/v1/revocations`, operator, revocation)).status).toBe(201);
    const later = await startService(settings, { database });
    for (const { url } of [service, later])
      expect((await call('POST', `${url}/v1/acks`, token, {})).status).toBe(401);
    await later.close();
  });

  test('maintenance goes on round after round, on every node, and leaves no lock behind', async () => {
    const other = await startService(settings, { database });
    for (const node of [service, other]) await firstRound(node);
    for (const { app } of [service, other, service, other])
      expect(await app.get(Maintenance).runOnce()).toMatchObject({ worked: true, failed: [] });
    await other.close();
    expect(await locksHeld()).toEqual([]);
  });

  test('a statement has the limits of its pool, whichever session it meets', async () => {
    const open = (statementTimeoutMs: number) =>
      new Pool({
        url: database.urls.crossTenant,
        name: 'test',
        connections: 1,
        connectTimeoutMs: 60_000,
        statementTimeoutMs,
        preparedStatements: false,
      });
    const patient = open(60_000);
    const hasty = open(50);
    const sleep = (seconds: number) => ({ name: 'sleep', text: `select pg_sleep(${seconds})` });
    for (let turn = 0; turn < 3; turn += 1) {
      // The server ends it, and the connection hears of that: our own wait would be a minute longer.
      await expect(hasty.rows(sleep(50))).rejects.toMatchObject({ code: '57014' });
      expect(await patient.rows(sleep(0.2))).toHaveLength(1);
      await expect(hasty.transaction((run) => run(sleep(50)))).rejects.toMatchObject({ code: '57014' });
      expect(await patient.transaction((run) => run(sleep(0.2)))).toHaveLength(1);
    }
    await Promise.all([patient.end(), hasty.end()]);
  });

  test('nodes hear one another behind it, or are told by which setting they do', async () => {
    const stop = new AbortController();
    const heard: string[] = [];
    const listening = listen({
      url: database.urls.crossTenant,
      channel: 'test',
      hear: (payload) => void heard.push(payload),
      connected: () => void database.query(`select pg_notify('test', 'something')`),
      queueUsage: () => undefined,
      signal: stop.signal,
    });
    if (mode === 'session') await eventually(() => expect(heard).toEqual(['something']));
    else await expect(listening).rejects.toThrow('DATABASE_LISTEN_URL');
    stop.abort();
    await listening.catch(() => undefined);
  });
});
