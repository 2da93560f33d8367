import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { TestClock } from '../support/test-clock.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService({ STREAM_BUFFER_BYTES: 16_384, RECEIPTS_FLUSH_MS: 50 });
});
afterAll(async () => {
  await service.close();
});

interface Interval {
  device_id: string;
  from_position: number;
  to_position: number;
  replayed: boolean;
  by_resume: boolean;
}

let tenants = 0;

/** A tenant of its own for each test, in which alice is told things. */
class Tenant {
  readonly id = `honest-${(tenants += 1)}`;
  readonly token = userToken({ tenant: this.id });

  async publish(data: unknown = 1, to: Record<string, unknown> = { user: 'alice' }): Promise<StoredAnswer> {
    return await publish(service.url, serviceToken({ tenant: this.id }), { to, type: 't', data });
  }

  async open(options: Parameters<typeof StreamClient.open>[2] = {}): Promise<StreamClient> {
    const stream = await StreamClient.open(service.url, this.token, options);
    await stream.untilEvent('caught-up');
    return stream;
  }

  async ack(upTo: string, device?: string): Promise<number> {
    return (
      await post(`${service.url}/v1/acks`, this.token, { upTo, ...(device === undefined ? {} : { device }) })
    ).status;
  }

  /** The intervals of a table of receipts that hold this position. */
  async covering(table: 'sends' | 'acks', { position }: StoredAnswer): Promise<Interval[]> {
    return await service.database.query<Interval & Record<string, unknown>>(
      `select * from ${table} where tenant_id = $1 and from_position < $2 and to_position >= $2 order by to_position`,
      [this.id, position],
    );
  }

  async untilSent(stored: StoredAnswer): Promise<Interval[]> {
    return await eventually(async () => {
      const found = await this.covering('sends', stored);
      expect(found).not.toEqual([]);
      return found;
    });
  }

  /** Waits until a later flush than now has been written: what is not there then will not come. */
  async untilFlushed(): Promise<void> {
    const { position } = await this.publish('flush', { user: 'marker' });
    const marker = await StreamClient.open(service.url, userToken({ tenant: this.id, user: 'marker' }), {
      lastEventId: String(Number(position) - 1),
    });
    await marker.untilNotifications(1);
    await marker.cut();
    await this.untilSent({ position } as StoredAnswer);
  }

  /** What an operator is told: the status, and the devices as [device, sends, delivered]. */
  async history({ id }: StoredAnswer) {
    const operator = serviceToken({ tenant: this.id, scope: 'history:read' });
    const { body } = await get<{
      status: string;
      devices: { device: string; sends: number; deliveredAt: string | null }[];
    }>(`${service.url}/v1/notifications/${id}`, operator);
    return {
      status: body.status,
      devices: body.devices.map(({ device, sends, deliveredAt }) => [device, sends, deliveredAt !== null]),
    };
  }

  async cursor(device = 'default'): Promise<number | undefined> {
    const [row] = await service.database.query<{ cursor: number }>(
      'select cursor from devices where tenant_id = $1 and device_id = $2',
      [this.id, device],
    );
    return row?.cursor;
  }
}

describe('sent', () => {
  test('is nothing that waits for somebody who is not there', async () => {
    const tenant = new Tenant();
    const stored = await tenant.publish();
    await tenant.untilFlushed();
    expect(await tenant.covering('sends', stored)).toEqual([]);
    expect(await tenant.history(stored)).toEqual({ status: 'queued', devices: [] });
  });

  test('is what was written as it came, and what was read from the log says so', async () => {
    const tenant = new Tenant();
    const before = await tenant.publish();
    const stream = await tenant.open();
    const live = await tenant.publish();
    await stream.untilNotifications(2);
    expect(await tenant.untilSent(before)).toMatchObject([{ device_id: 'default', replayed: true }]);
    expect(await tenant.untilSent(live)).toMatchObject([{ device_id: 'default', replayed: false }]);
    for (const stored of [before, live]) {
      expect(await tenant.history(stored)).toEqual({ status: 'sent', devices: [['default', 1, false]] });
      expect(await tenant.covering('acks', stored)).toEqual([]);
    }
    await stream.cut();
  });

  test('again counts again', async () => {
    const tenant = new Tenant();
    const stored = await tenant.publish();
    for (let i = 0; i < 2; i += 1) await (await tenant.open()).cut();
    await eventually(async () => expect(await tenant.covering('sends', stored)).toHaveLength(2));
    expect(await tenant.history(stored)).toEqual({ status: 'sent', devices: [['default', 2, false]] });
  });

  test('is not what still waits for a client that does not read', async () => {
    const tenant = new Tenant();
    const slow = await tenant.open();
    slow.pause();
    const filling = 'x'.repeat(20_000);
    const many = Array.from({ length: 600 }, () => ({ to: { user: 'alice' }, type: 't', data: filling }));
    const { body } = await post<{ notifications: StoredAnswer[] }>(
      `${service.url}/v1/notifications/batch`,
      serviceToken({ tenant: tenant.id }),
      { notifications: many.slice(0, 300) },
    );
    await post(`${service.url}/v1/notifications/batch`, serviceToken({ tenant: tenant.id }), {
      notifications: many.slice(300),
    });
    const last = await tenant.publish('last');
    const [first] = body.notifications;
    if (first === undefined) throw new Error('nothing was stored');
    await tenant.untilSent(first);
    await tenant.untilFlushed();
    expect(await tenant.covering('sends', last)).toEqual([]);
    // Gone without having read it.
    await slow.cut();
    await tenant.untilFlushed();
    expect(await tenant.history(last)).toEqual({ status: 'queued', devices: [] });
  });

  test('is nothing that comes when the stream has been ended, though the client has not closed yet', async () => {
    const tenant = new Tenant();
    const exp = Math.floor(Date.now() / 1000) + 1_800;
    const stubborn = listen(userToken({ tenant: tenant.id, claims: { exp } }));
    await stubborn.untilText('event: caught-up');
    const before = await tenant.publish('before');
    await stubborn.untilText('"before"');
    const clock = new TestClock();
    try {
      clock.set(exp * 1000 - 1_500);
      await stubborn.untilText('event: bye');
    } finally {
      clock.restore();
    }
    const after = await tenant.publish('after');
    const again = await tenant.open({ lastEventId: before.position });
    await again.untilNotifications(1);
    await tenant.untilSent(before);
    await again.cut();
    await tenant.untilFlushed();
    expect((await tenant.covering('sends', after)).map(({ replayed }) => replayed)).toEqual([true]);
    expect(stubborn.text()).toMatch(/event: bye\ndata: [^\n]*\n\n\r\n0\r\n\r\n$/);
    stubborn.socket.destroy();
  });
});

/** A client that hears that the server is done, and keeps its own side open. */
function listen(token: string): {
  socket: Socket;
  text: () => string;
  untilText: (part: string) => Promise<void>;
} {
  const socket = connect({ port: Number(new URL(service.url).port), host: '127.0.0.1', allowHalfOpen: true });
  let text = '';
  socket.on('error', () => undefined);
  socket.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  socket.write(`GET /v1/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\n\r\n`);
  return {
    socket,
    text: () => text,
    untilText: async (part) => await eventually(() => expect(text).toContain(part)),
  };
}

describe('delivered', () => {
  test('is what the device confirmed, from where it stood', async () => {
    const tenant = new Tenant();
    const [first, second, third] = [await tenant.publish(), await tenant.publish(), await tenant.publish()];
    const stream = await tenant.open();
    await stream.untilNotifications(3);
    expect(await tenant.ack(second.position)).toBe(204);
    // It is on disk when the answer is there: no waiting.
    for (const stored of [first, second]) {
      expect(await tenant.covering('acks', stored)).toMatchObject([{ by_resume: false }]);
      expect(await tenant.history(stored)).toMatchObject({
        status: 'delivered',
        devices: [['default', expect.any(Number), true]],
      });
    }
    expect(await tenant.covering('acks', third)).toEqual([]);
    await tenant.untilSent(third);
    expect(await tenant.history(third)).toMatchObject({ status: 'sent' });
    await stream.cut();
  });

  test('is what lies before a resume', async () => {
    const tenant = new Tenant();
    const [first, second] = [await tenant.publish(), await tenant.publish()];
    await (await tenant.open()).cut();
    await (await tenant.open({ lastEventId: first.position })).cut();
    expect(await tenant.covering('acks', first)).toMatchObject([{ by_resume: true }]);
    expect(await tenant.covering('acks', second)).toEqual([]);
    await eventually(async () => expect((await tenant.history(first)).status).toBe('delivered'));
    await tenant.untilSent(second);
    expect((await tenant.history(second)).status).toBe('sent');
  });

  test('is never what was skipped', async () => {
    const tenant = new Tenant();
    const skipped = await tenant.publish();
    const stream = await tenant.open({ query: { from: 'latest' } });
    const seen = await tenant.publish();
    await stream.untilNotifications(1);
    expect(await tenant.ack(seen.position)).toBe(204);
    expect(await tenant.covering('acks', skipped)).toEqual([]);
    expect(await tenant.history(skipped)).toEqual({ status: 'queued', devices: [] });
    expect(await tenant.history(seen)).toMatchObject({ status: 'delivered' });
    await stream.cut();
  });

  test('is of that device alone', async () => {
    const tenant = new Tenant();
    const stored = await tenant.publish();
    for (const device of ['phone', 'tablet']) await (await tenant.open({ query: { device } })).cut();
    expect(await tenant.ack(stored.position, 'phone')).toBe(204);
    await eventually(async () => expect(await tenant.covering('sends', stored)).toHaveLength(2));
    const { devices } = await tenant.history(stored);
    expect(devices.toSorted(([a], [b]) => String(a).localeCompare(String(b)))).toEqual([
      ['phone', 1, true],
      ['tablet', 1, false],
    ]);
  });

  test('is nothing by a bad position, an ack ahead of the log, or one of a device that was never there', async () => {
    const tenant = new Tenant();
    const stored = await tenant.publish();
    await (await tenant.open()).cut();
    await (await tenant.open({ lastEventId: 'x' })).cut();
    expect(await tenant.ack(String(Number(stored.position) + 1_000_000))).toBe(400);
    expect(await tenant.ack(stored.position, 'nobody')).toBe(404);
    expect(await tenant.covering('acks', stored)).toEqual([]);
  });
});

describe('with ack=auto', () => {
  test('the cursor follows what was written, and nothing is delivered', async () => {
    const tenant = new Tenant();
    await tenant.publish();
    const stream = await tenant.open({ query: { ack: 'auto' } });
    const live = await tenant.publish();
    await stream.untilNotifications(2);
    await eventually(async () => expect(await tenant.cursor()).toBe(Number(live.position)));
    expect(await tenant.history(live)).toEqual({ status: 'sent', devices: [['default', 1, false]] });
    await stream.cut();
    expect(await service.database.query('select from acks where tenant_id = $1', [tenant.id])).toEqual([]);
    const again = await tenant.open({ query: { ack: 'auto' } });
    expect(again.notifications).toEqual([]);
    await again.cut();
  });

  test('the cursor does not go back when one reads from the beginning', async () => {
    const tenant = new Tenant();
    const stored = await tenant.publish();
    await (await tenant.open({ query: { ack: 'auto' } })).cut();
    await eventually(async () => expect(await tenant.cursor()).toBe(Number(stored.position)));
    const last = await tenant.publish();
    await (await tenant.open({ query: { ack: 'auto', from: 'earliest' } })).cut();
    await eventually(async () => expect(await tenant.cursor()).toBe(Number(last.position)));
  });

  test('is not the default', async () => {
    const tenant = new Tenant();
    const stored = await tenant.publish();
    await (await tenant.open()).cut();
    await tenant.untilSent(stored);
    expect(await tenant.cursor()).toBe(0);
  });
});
