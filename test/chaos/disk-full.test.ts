import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { readySchema } from '../../src/health/health.controller.ts';
import { get, post, type StoredAnswer } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres, type PostgresServer } from '../support/postgres-server.ts';
import { startServiceProcess, type ServiceProcess } from '../support/service-process.ts';
import { mountSmallDisk } from '../support/small-disk.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/* The disk of PostgreSQL is really full: for its tables, and then for its log, which it does not survive. */

jest.setTimeout(300_000);

const MIB = 1024 ** 2;
const disk = await mountSmallDisk(320 * MIB);
if (disk === undefined) process.stderr.write('Skipped: this process may not mount a file system.\n');

(disk === undefined ? describe.skip : describe)('a disk without room', () => {
  let postgres: PostgresServer;
  let service: ServiceProcess;

  beforeEach(async () => {
    postgres = await startPostgres({ max_wal_size: '64MB' }, disk?.folder);
    service = await startServiceProcess(postgres);
  });
  afterEach(async () => {
    await service.end();
    await disk?.empty();
    await postgres.remove();
  });
  afterAll(async () => {
    await disk?.remove();
  });

  const DATA = randomBytes(40_000).toString('base64url');
  const send = (key: string) =>
    post<StoredAnswer & { code?: string }>(
      `${service.url}/v1/notifications`,
      serviceToken(),
      { to: { user: 'alice' }, type: 't', data: key + DATA },
      { 'idempotency-key': key },
    );
  const ready = async () => {
    const response = await fetch(`${service.url}/health/ready`);
    expect(response.status).toBe(200);
    return readySchema.parse(await response.json()).database;
  };
  /** What was stored, by its key; every other answer is a 503. */
  const stored = new Map<string, string>();
  const codes = new Set<string>();
  beforeEach(() => {
    stored.clear();
    codes.clear();
  });
  async function sendOnce(key: string): Promise<boolean> {
    const { status, body } = await send(key);
    if (status === 201) {
      stored.set(key, body.id);
      return true;
    }
    expect({ status, code: body.code, detail: body }).toMatchObject({
      status: 503,
      code: expect.stringMatching(/^database_/) as unknown,
    });
    codes.add(body.code ?? '');
    return false;
  }
  /** Sends one after the other until one is refused. The key of that one. */
  async function sendUntilRefused(name: string): Promise<string> {
    for (let n = 0; ; n += 1) if (!(await sendOnce(`${name}-${n}`))) return `${name}-${n}`;
  }

  /** Everything that was answered 201 is there once, what was refused is stored now, and streams have it all. */
  async function expectWhole(refused: string): Promise<void> {
    await eventually(async () => expect(await sendOnce(refused)).toBe(true));
    for (const [key, id] of [...stored].slice(-5)) {
      const again = await send(key);
      expect([again.status, again.body.id]).toEqual([201, id]);
    }
    const stream = await StreamClient.open(service.url, userToken(), { query: { from: 'earliest' } });
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ id }) => id)).toEqual([...stored.values()]);
    await stream.cut();
    expect(await ready()).not.toHaveProperty('writeFailure');
  }

  test('for tables is told as such and reported, streams stay open, and all goes on once there is room', async () => {
    const live = await StreamClient.open(service.url, userToken(), { query: { device: 'live' } });
    await live.untilEvent('caught-up');
    await disk?.fill(2 * MIB);
    const refused = await sendUntilRefused('table');
    expect(codes).toEqual(new Set(['database_full']));
    expect(await ready()).toMatchObject({ reachable: true, writeFailure: { error: '53100' } });
    expect(
      (await get(`${service.url}/v1/notifications?limit=1`, serviceToken({ scope: 'history:read' }))).status,
    ).toBe(200);
    expect(live.ended).toBe(false);
    await disk?.empty();
    await expectWhole(refused);
    await live.until(() => live.notifications.length === stored.size, 'all of them');
    await live.cut();
  });

  test('for its log ends PostgreSQL; publishers are told to come back, and nothing that was answered is lost', async () => {
    expect(await sendOnce('before')).toBe(true);
    await disk?.fill(0);
    const admin = new pg.Client({ connectionString: postgres.url });
    admin.on('error', () => undefined);
    await admin.connect();
    // The rest of the segment that there is: what follows needs another one.
    await admin.query('select pg_switch_wal()').catch(() => undefined);
    await admin.end().catch(() => undefined);
    const refused = await sendUntilRefused('log');
    await sendOnce(refused);
    await eventually(async () => expect(await ready()).toMatchObject({ reachable: false }));
    await disk?.empty();
    await postgres.stop();
    await postgres.start();
    await expectWhole(refused);
  });
});
