import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await service.close();
});

/** A tenant of its own for each test: `alice` with as many devices as she likes. */
class Alice {
  static #tenants = 0;
  readonly tenant = `undelivered-${(Alice.#tenants += 1)}`;
  readonly #token = userToken({ tenant: this.tenant, topics: ['news'] });
  #published = 0;

  async publish(count: number, to: Record<string, unknown> = { user: 'alice' }): Promise<string[]> {
    const positions: string[] = [];
    for (let i = 0; i < count; i += 1) {
      const { position } = await publish(service.url, serviceToken({ tenant: this.tenant }), {
        to,
        type: 't',
        data: (this.#published += 1),
      });
      positions.push(position);
    }
    return positions;
  }

  /** Connects, reads the backlog, goes away. */
  async visit(device: string, query: Record<string, string> = {}, lastEventId?: string) {
    const stream = await StreamClient.open(service.url, this.#token, {
      query: { device, ...query },
      ...(lastEventId === undefined ? {} : { lastEventId }),
    });
    await stream.untilEvent('caught-up');
    await stream.cut();
    return {
      resume: stream.named('sync')[0]?.['resume'],
      data: stream.notifications.map(({ data }) => data),
    };
  }

  async ack(device: string, upTo: string | undefined): Promise<void> {
    const { status } = await post(`${service.url}/v1/acks`, this.#token, { upTo, device });
    expect(status).toBe(204);
  }
}

describe('the first connect of a device', () => {
  test('of a user who has confirmed nothing begins with the oldest that is kept', async () => {
    const alice = new Alice();
    await alice.publish(2);
    await alice.publish(1, { topic: 'news' });
    await alice.publish(1, { everyone: true });
    expect(await alice.visit('phone')).toEqual({ resume: 'undelivered', data: [1, 2, 3, 4] });
  });

  test("begins behind the furthest that the user's other devices have confirmed", async () => {
    const alice = new Alice();
    const positions = await alice.publish(4);
    await alice.visit('phone');
    await alice.visit('tablet');
    await alice.ack('phone', positions[0]);
    await alice.ack('tablet', positions[2]);
    expect((await alice.visit('laptop')).data).toEqual([4]);
    expect((await alice.visit('phone')).data).toEqual([2, 3, 4]);
  });

  test('does not begin behind what another device has skipped or was sent', async () => {
    const alice = new Alice();
    await alice.publish(3);
    await alice.visit('skipper', { from: 'latest' });
    await alice.visit('reader');
    expect((await alice.visit('new')).data).toEqual([1, 2, 3]);
  });

  test('fixes where it stands: what others confirm later does not move it', async () => {
    const alice = new Alice();
    const positions = await alice.publish(3);
    await alice.visit('phone');
    await alice.visit('tablet');
    await alice.ack('tablet', positions[2]);
    expect((await alice.visit('phone')).data).toEqual([1, 2, 3]);
  });

  test("another user's confirmations are not this user's", async () => {
    const alice = new Alice();
    const positions = await alice.publish(2, { everyone: true });
    const bob = userToken({ tenant: alice.tenant, user: 'bob' });
    const stream = await StreamClient.open(service.url, bob);
    await stream.untilEvent('caught-up');
    await stream.cut();
    await post(`${service.url}/v1/acks`, bob, { upTo: positions[1] });
    expect((await alice.visit('phone')).data).toEqual([1, 2]);
  });
});

describe('a device that comes back without a position', () => {
  test('gets all that it has not confirmed, again and again', async () => {
    const alice = new Alice();
    const positions = await alice.publish(3);
    for (let i = 0; i < 2; i += 1) expect((await alice.visit('phone')).data).toEqual([1, 2, 3]);
    await alice.ack('phone', positions[1]);
    await alice.publish(1, { topic: 'news' });
    expect(await alice.visit('phone')).toEqual({ resume: 'undelivered', data: [3, 4] });
  });

  test('has confirmed by resuming', async () => {
    const alice = new Alice();
    const positions = await alice.publish(3);
    await alice.visit('phone', {}, positions[1]);
    expect((await alice.visit('phone')).data).toEqual([3]);
  });

  test('does not lose what it has by resuming from further back', async () => {
    const alice = new Alice();
    const positions = await alice.publish(3);
    await alice.visit('phone');
    await alice.ack('phone', positions[1]);
    expect((await alice.visit('phone', {}, positions[0])).data).toEqual([2, 3]);
    expect((await alice.visit('phone')).data).toEqual([3]);
  });

  test('with `latest` leaves what was there behind for good', async () => {
    const alice = new Alice();
    await alice.publish(2);
    await alice.visit('phone');
    expect(await alice.visit('phone', { from: 'latest' })).toEqual({ resume: 'latest', data: [] });
    await alice.publish(1);
    expect((await alice.visit('phone')).data).toEqual([3]);
  });

  test('with `earliest` gets what it has confirmed, too, and stands where it stood', async () => {
    const alice = new Alice();
    const positions = await alice.publish(3);
    await alice.visit('phone');
    await alice.ack('phone', positions[1]);
    expect(await alice.visit('phone', { from: 'earliest' })).toEqual({ resume: 'earliest', data: [1, 2, 3] });
    expect((await alice.visit('phone')).data).toEqual([3]);
  });

  test('two that call themselves the same share one cursor', async () => {
    const alice = new Alice();
    const positions = await alice.publish(2);
    const both = await Promise.all([alice.visit('default'), alice.visit('default')]);
    expect(both.map(({ data }) => data)).toEqual([
      [1, 2],
      [1, 2],
    ]);
    await alice.ack('default', positions[0]);
    expect((await alice.visit('default')).data).toEqual([2]);
  });
});
