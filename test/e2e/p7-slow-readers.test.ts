import { connect, type Socket } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { Connection } from '../../src/delivery/connection.ts';
import { post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { TestClock } from '../support/test-clock.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/** What a stream may keep for a reader that does not read: what waits for its socket, and one page of the log. */
const BUFFER = 32_768;

/** The service of a test. By default whoever does not read is taken for dead long after the test. */
let service: Service;
const start = (stallSeconds = 600) =>
  startService({
    STREAM_BUFFER_BYTES: BUFFER,
    TAIL_BYTES_PER_TENANT: 65_536,
    BACKLOG_PAGE_BYTES: 32_768,
    STREAM_STALL_SECONDS: stallSeconds,
    MAX_DATA_BYTES: '100000',
  });
afterEach(async () => {
  await service.close();
});

const PIECE = 'x'.repeat(20_000);

/** Publishes `count` times in batches; answers the ids in order. */
async function publishMany(
  tenant: string,
  to: Record<string, unknown>,
  count: number,
  atOnce = 100,
): Promise<string[]> {
  const ids: string[] = [];
  for (let i = 0; i < count; i += atOnce) {
    const notifications = Array.from({ length: atOnce }, (_, j) => ({
      to,
      type: 't',
      data: { n: i + j, PIECE },
    }));
    const { status, body } = await post<{ notifications: StoredAnswer[] }>(
      `${service.url}/v1/notifications/batch`,
      serviceToken({ tenant }),
      { notifications },
    );
    expect(status).toBe(201);
    ids.push(...body.notifications.map(({ id }) => id));
  }
  return ids;
}

/** A client that asks for its stream and then reads only when told to. */
function askWithoutReading(tenant: string, user: string): Socket {
  const { port } = new URL(service.url);
  const socket = connect(Number(port), '127.0.0.1');
  socket.on('error', () => undefined);
  socket.pause();
  socket.write(
    `GET /v1/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${userToken({ tenant, user })}\r\n\r\n`,
  );
  return socket;
}

/** Bytes of buffers that are still needed. */
function buffersInUse(): number {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  if (typeof collect === 'function') collect();
  return process.memoryUsage().arrayBuffers;
}

/** How each connection of a tenant ended: null while it is open. */
const ends = async (tenant: string) =>
  (
    await service.database.query<{ reason: string | null }>(
      'select reason from connections where tenant_id = $1 order by since',
      [tenant],
    )
  ).map(({ reason }) => reason);

const untilOpen = async (tenant: string, count: number) =>
  await eventually(async () => expect(await ends(tenant)).toHaveLength(count));

test('one that stops and goes on gets everything in the end, in order, though memory has long forgotten it', async () => {
  service = await start();
  const tenant = 'goes-on';
  const slow = await StreamClient.open(service.url, userToken({ tenant }));
  await slow.untilEvent('caught-up');
  slow.pause();
  const ids = await publishMany(tenant, { user: 'alice' }, 800);
  slow.resume();
  const got = await slow.untilNotifications(ids.length);
  expect(got.map(({ id }) => id)).toEqual(ids);
  expect(slow.named('gap')).toEqual([]);
  expect(slow.named('bye')).toEqual([]);
  // And is as live as before.
  const { id } = await publish(service.url, serviceToken({ tenant }), {
    to: { user: 'alice' },
    type: 't',
    data: 'live',
  });
  expect((await slow.untilNotifications(ids.length + 1)).at(-1)?.id).toBe(id);
  await slow.cut();
});

test('those who do not read cost bounded memory and hold up nobody', async () => {
  service = await start();
  const tenant = 'stubborn';
  const users = ['s1', 's2', 's3', 's4'];
  const stubborn = users.map((user) => askWithoutReading(tenant, user));
  const good = await StreamClient.open(service.url, userToken({ tenant, user: 'good' }));
  await good.untilEvent('caught-up');
  await untilOpen(tenant, 5);
  const before = buffersInUse();
  for (let i = 0; i < 10; i += 1) {
    // Each of them has a copy of its own: what is meant for all is shared, and would show little.
    await publishMany(tenant, { users }, 100, 25);
    // Who is held up by them would be for as long as they do not read.
    await publish(service.url, serviceToken({ tenant }), { to: { user: 'good' }, type: 't', data: i });
    await good.until(() => good.notifications.at(-1)?.data === i, `the notification ${i}`);
  }
  // 20 MB each, of which the kernel takes some. V8 frees buffers beside the program, some time after the collection; what
  // is kept for a reader stays.
  await eventually(
    () => expect(buffersInUse() - before).toBeLessThan(users.length * 4 * BUFFER + 8_000_000),
    { every: 50 },
  );
  for (const socket of stubborn) socket.destroy();
  await good.cut();
});

describe('a socket', () => {
  const STALL_SECONDS = 600;
  let clock: TestClock;
  let looks: jest.SpiedFunction<Connection['tick']>;
  beforeEach(async () => {
    service = await start(STALL_SECONDS);
    looks = jest.spyOn(Connection.prototype, 'tick');
    clock = new TestClock();
  });
  afterEach(() => {
    clock.restore();
    looks.mockRestore();
  });

  /** Lets the service look at the one stream that there is, and then some time pass for it. */
  async function lookAndGoOn(seconds: number): Promise<void> {
    await looked();
    clock.set(Date.now() + seconds * 1_000);
    await looked();
  }

  async function looked(): Promise<void> {
    const before = looks.mock.calls.length;
    await eventually(() => expect(looks.mock.calls.length).toBeGreaterThan(before));
  }

  test('that takes no byte for so long is dead', async () => {
    const tenant = 'dead';
    const socket = askWithoutReading(tenant, 'alice');
    await untilOpen(tenant, 1);
    await publishMany(tenant, { user: 'alice' }, 800);
    await lookAndGoOn(STALL_SECONDS);
    expect(await ends(tenant)).toEqual([null]);
    await eventually(
      async () => {
        clock.set(Date.now() + STALL_SECONDS * 1_000 + 1);
        expect(await ends(tenant)).toEqual(['stalled']);
      },
      { every: 500 },
    );
    socket.destroy();
  });

  test('that takes a little at a time is slow, not dead, and gets everything', async () => {
    const tenant = 'slow';
    const ids = await publishMany(tenant, { user: 'alice' }, 800);
    const slow = await StreamClient.open(service.url, userToken({ tenant }), {
      query: { from: 'earliest' },
      paused: true,
    });
    await untilOpen(tenant, 1);
    // About 1 MB now and then, for longer than a dead socket would be kept.
    for (let i = 0; i < 5; i += 1) {
      const before = slow.raw.length;
      slow.resume();
      await slow.until(
        () => slow.raw.length > before + 1_000_000 || slow.events.length >= ids.length,
        'more bytes',
      );
      slow.pause();
      await lookAndGoOn(STALL_SECONDS / 2);
    }
    expect(await ends(tenant)).toEqual([null]);
    slow.resume();
    expect((await slow.untilNotifications(ids.length)).map(({ id }) => id)).toEqual(ids);
    await slow.cut();
  });

  test('that has nothing to take is not dead', async () => {
    const tenant = 'idle';
    const idle = await StreamClient.open(service.url, userToken({ tenant }));
    await idle.untilEvent('caught-up');
    await untilOpen(tenant, 1);
    await lookAndGoOn(STALL_SECONDS * 1.5);
    expect(await ends(tenant)).toEqual([null]);
    await publish(service.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: 1 });
    await idle.untilNotifications(1);
    await idle.cut();
  });
});
