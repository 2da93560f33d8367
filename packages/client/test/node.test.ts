import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { NO_LIMITS } from '../../../src/core/limits.ts';
import { setTenant } from '../../../test/support/acts.ts';
import { post, publish, type StoredAnswer } from '../../../test/support/api.ts';
import { startService, type Service } from '../../../test/support/app.ts';
import { CuttingProxy } from '../../../test/support/cutting-proxy.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { serviceToken, userToken } from '../../../test/support/tokens.ts';
import { createTidings, type Counts, type TextStorage, type Tidings } from '../src/index.ts';

/* In a program of Node, which gives the kit a storage and has nothing else of a browser, against the real service. */

let service: Service;
let proxy: CuttingProxy;
beforeAll(async () => {
  service = await startService({ STREAM_RETRY_MS: 100, HEARTBEAT_SECONDS: '5' });
  proxy = await CuttingProxy.start(service.url);
});
afterAll(async () => {
  await proxy.close();
  await service.close();
});

const running: Tidings[] = [];
afterEach(() => {
  for (const tidings of running.splice(0)) tidings.stop();
});

function storageIn(kept: Map<string, string>): TextStorage {
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
    removeItem: (key) => void kept.delete(key),
  };
}

function run(token: string, kept = new Map<string, string>(), url = proxy.url) {
  const got: string[] = [];
  const reasons: string[] = [];
  const counts: (Counts | undefined)[] = [];
  const tidings = createTidings(
    { url, user: 'alice', device: 'program', token: () => token },
    { storage: storageIn(kept) },
  );
  running.push(tidings);
  tidings.on('notification', ({ id }) => void got.push(id));
  tidings.on('signed-out', (reason) => void reasons.push(reason));
  tidings.counts.subscribe(() => counts.push(tidings.counts.getSnapshot()));
  tidings.start();
  return { tidings, got, reasons, counts };
}

const publisherOf =
  (tenant: string) =>
  async (more = {}): Promise<StoredAnswer> =>
    await publish(service.url, serviceToken({ tenant }), {
      to: { user: 'alice' },
      type: 't',
      data: null,
      ...more,
    });

test('goes on where it was after a cut, and when it is started anew with what was kept', async () => {
  const send = publisherOf('program');
  const token = userToken({ tenant: 'program' });
  const kept = new Map<string, string>();
  const before = run(token, kept);
  const sent = [await send()];
  const expectGot = async ({ got }: typeof before): Promise<void> =>
    await eventually(() => expect(got).toEqual(sent.map(({ id }) => id)));
  await expectGot(before);
  proxy.cut('reset');
  sent.push(await send(), await send());
  await expectGot(before);
  const confirmed = async () =>
    await service.database.query<{ device_id: string; cursor: number }>(
      `select device_id, cursor from devices where tenant_id = 'program'`,
    );
  await eventually(async () =>
    expect(await confirmed()).toEqual([{ device_id: 'program', cursor: Number(sent.at(-1)?.position) }]),
  );
  before.tidings.stop();
  sent.splice(0, sent.length, await send());
  await expectGot(run(token, kept));
});

test('counts what comes, what expires, and what is read elsewhere', async () => {
  const send = publisherOf('counted');
  const token = userToken({ tenant: 'counted' });
  const first = await send();
  const { counts } = run(token);
  const expectTold = async (unread: number, unseen: number): Promise<void> =>
    await eventually(() => expect(counts.at(-1)).toEqual({ unread, unseen, exact: true }));
  await expectTold(1, 1);
  const second = await send();
  await send({ inbox: false });
  await expectTold(2, 2);
  await post(`${service.url}/v1/inbox/marks`, token, {
    seenUpTo: second.position,
    items: [{ id: first.id, read: true }],
  });
  await expectTold(1, 0);
  proxy.cut('reset');
  await send({ ttlSeconds: 2 });
  await expectTold(2, 1);
  await expectTold(1, 0);
});

test('of two programs of a user who may have one stream, the older one stays away, however often the younger comes back', async () => {
  const tenant = 'one-stream';
  await setTenant(service, tenant, { limits: { ...NO_LIMITS, connectionsPerUser: 1 } });
  const send = publisherOf(tenant);
  const token = userToken({ tenant });
  const older = run(token, new Map(), service.url);
  const first = await send();
  await eventually(() => expect(older.got).toEqual([first.id]));
  const younger = run(token);
  await eventually(() => expect(older.tidings.status).toBe('replaced'));
  const streams = async () =>
    await service.database.query<{ reason: string | null }>(
      `select reason from connections where tenant_id = $1 order by since`,
      [tenant],
    );
  for (let n = 0; n < 5; n += 1) {
    proxy.cut('reset');
    await eventually(async () => expect(await streams()).toHaveLength(n + 3));
    const { id } = await send();
    await eventually(() => expect(younger.got).toContain(id));
  }
  expect(older.tidings.status).toBe('replaced');
  expect(older.got).toEqual([first.id]);
  expect(younger.tidings.status).toBe('live');
  expect((await streams()).filter(({ reason }) => reason === 'replaced')).toHaveLength(1);
});

test('is signed out when its tenant was suspended', async () => {
  await setTenant(service, 'asleep', { status: 'suspended' });
  const { tidings, reasons } = run(userToken({ tenant: 'asleep' }));
  await eventually(() => expect(reasons).toEqual(['tenant_suspended']));
  expect(tidings.status).toBe('signed-out');
});
