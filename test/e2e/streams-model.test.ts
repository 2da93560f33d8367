import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { get, post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * Random interleavings of publish, connect, cut, resume and acknowledge over several users, topics and devices,
 * against a model that is small enough to be believed: a list of what was stored, and per device a cursor and what
 * it confirmed. Every run has a tenant of its own; all runs share one service, so tenants also run beside each other.
 */

const USERS = ['ann', 'bob'];
const DEVICES = ['phone', 'laptop'];
const TOPICS: Record<string, string[]> = { ann: ['news', 'ops'], bob: ['news'] };

type Target = { user: string } | { topic: string } | { everyone: true };
type Command =
  | { kind: 'publish'; to: Target[] }
  | {
      kind: 'connect';
      who: number;
      how: 'carry' | 'undelivered' | 'latest' | 'earliest';
      meanwhile: Target[];
    }
  | { kind: 'cut'; who: number }
  | { kind: 'acknowledge'; who: number; back: number };

interface Stored {
  readonly id: string;
  readonly position: number;
  readonly to: Target;
}

/** What the model knows of one device. */
interface Device {
  readonly user: string;
  readonly device: string;
  cursor: number | undefined;
  lastId: number | undefined;
  stream: StreamClient | undefined;
  /** Where the open stream began. */
  start: number;
  readonly received: Set<string>;
  readonly confirmed: Set<string>;
}

const target: fc.Arbitrary<Target> = fc.oneof(
  fc.constantFrom(...USERS).map((user) => ({ user })),
  fc.constantFrom('news', 'ops', 'nobody reads this').map((topic) => ({ topic })),
  fc.constant({ everyone: true } as const),
);
const who = fc.nat({ max: USERS.length * DEVICES.length - 1 });
const command: fc.Arbitrary<Command> = fc.oneof(
  fc.record({ kind: fc.constant('publish' as const), to: fc.array(target, { minLength: 1, maxLength: 5 }) }),
  fc.record({
    kind: fc.constant('connect' as const),
    who,
    how: fc.constantFrom('carry' as const, 'undelivered' as const, 'latest' as const, 'earliest' as const),
    meanwhile: fc.array(target, { maxLength: 5 }),
  }),
  fc.record({ kind: fc.constant('cut' as const), who }),
  fc.record({ kind: fc.constant('acknowledge' as const), who, back: fc.nat({ max: 3 }) }),
);

const addressed = (to: Target, user: string): boolean =>
  'everyone' in to || ('user' in to ? to.user === user : (TOPICS[user] ?? []).includes(to.topic));

class Run {
  readonly tenant = `t-${randomUUID()}`;
  readonly log: Stored[] = [];
  /** The furthest acknowledgement of each user's devices. */
  readonly acknowledged = new Map<string, number>();
  readonly devices: Device[] = USERS.flatMap((user) =>
    DEVICES.map((device) => ({
      user,
      device,
      cursor: undefined,
      lastId: undefined,
      stream: undefined,
      start: 0,
      received: new Set<string>(),
      confirmed: new Set<string>(),
    })),
  );
  readonly #publisher = serviceToken({ tenant: this.tenant });

  constructor(private readonly service: Service) {}

  async execute(step: Command): Promise<void> {
    if (step.kind === 'publish') await this.publish(step.to);
    else {
      const device = this.devices[step.who];
      if (device === undefined) throw new Error('no such device');
      if (step.kind === 'connect') await this.connect(device, step.how, step.meanwhile);
      else if (step.kind === 'cut') await this.cut(device);
      else await this.acknowledge(device, step.back);
    }
    await this.settle();
  }

  async publish(to: readonly Target[]): Promise<void> {
    const stored = await Promise.all(
      to.map(async (each) => {
        const { id, position } = await publish(this.service.url, this.#publisher, {
          to: each,
          type: 't',
          data: null,
        });
        return { id, position: Number(position), to: each };
      }),
    );
    this.log.push(...stored);
    this.log.sort((a, b) => a.position - b.position);
  }

  async connect(
    device: Device,
    how: 'carry' | 'undelivered' | 'latest' | 'earliest',
    meanwhile: readonly Target[],
  ): Promise<void> {
    if (device.stream !== undefined) await this.cut(device);
    const head = this.log.at(-1)?.position ?? 0;
    device.cursor ??= this.acknowledged.get(device.user) ?? 0;
    const resume = how === 'carry' ? device.lastId : undefined;
    const token = userToken({ tenant: this.tenant, user: device.user, topics: TOPICS[device.user] ?? [] });
    // `latest` beside a publish may start before or behind it: nothing could be said about either.
    const beside = how === 'latest' ? [] : meanwhile;
    const [stream] = await Promise.all([
      StreamClient.open(this.service.url, token, {
        query: { device: device.device, ...(how === 'carry' ? {} : { from: how }) },
        ...(resume === undefined ? {} : { lastEventId: String(resume) }),
      }),
      this.publish(beside),
    ]);
    expect(stream.status).toBe(200);
    device.stream = stream;
    if (resume !== undefined) {
      this.confirm(device, resume);
      device.start = resume;
    } else if (how === 'latest') {
      device.cursor = Math.max(device.cursor, head);
      device.start = head;
    } else {
      device.start = how === 'earliest' ? 0 : device.cursor;
    }
    const sync = await stream.untilEvent('sync');
    expect(sync).toMatchObject({
      resume: resume === undefined ? (how === 'carry' ? 'undelivered' : how) : 'exact',
      from: String(device.start),
    });
    await stream.untilEvent('caught-up');
  }

  async cut(device: Device): Promise<void> {
    await device.stream?.cut();
    device.stream = undefined;
  }

  async acknowledge(device: Device, back: number): Promise<void> {
    if (device.cursor === undefined || device.lastId === undefined) return;
    const upTo = this.log.filter(({ position }) => position <= (device.lastId ?? 0)).at(-1 - back)?.position;
    if (upTo === undefined) return;
    const token = userToken({ tenant: this.tenant, user: device.user, topics: TOPICS[device.user] ?? [] });
    const { status } = await post(`${this.service.url}/v1/acks`, token, {
      upTo: String(upTo),
      device: device.device,
    });
    expect(status).toBe(204);
    this.confirm(device, upTo);
  }

  confirm(device: Device, upTo: number): void {
    const cursor = device.cursor ?? 0;
    if (upTo <= cursor) return;
    for (const { id, position, to } of this.log) {
      if (position > cursor && position <= upTo && addressed(to, device.user)) device.confirmed.add(id);
    }
    device.cursor = upTo;
    this.acknowledged.set(device.user, Math.max(this.acknowledged.get(device.user) ?? 0, upTo));
  }

  /** Every open stream has exactly what was addressed to it behind its start, in order. */
  async settle(): Promise<void> {
    for (const device of this.devices) {
      const { stream, start, user } = device;
      if (stream === undefined) continue;
      const expected = this.log.filter(({ position, to }) => position > start && addressed(to, user));
      const got = await stream.untilNotifications(expected.length);
      expect(got.map(({ id }) => id)).toEqual(expected.map(({ id }) => id));
      for (const { id } of got) device.received.add(id);
      device.lastId = Number(stream.lastEventId);
    }
  }

  /** History says of every notification what the model says. */
  async compareHistory(): Promise<void> {
    const token = serviceToken({ tenant: this.tenant, scope: 'history:read' });
    await eventually(async () => {
      for (const { id, to } of this.log) {
        const { body } = await get<{ status: string; counts?: { sent: number; delivered: number } }>(
          `${this.service.url}/v1/notifications/${id}`,
          token,
        );
        const sent = this.devices.filter((device) => device.received.has(id)).length;
        const delivered = this.devices.filter((device) => device.confirmed.has(id)).length;
        expect({ id, status: body.status }).toEqual({
          id,
          status: delivered > 0 ? 'delivered' : sent > 0 ? 'sent' : 'queued',
        });
        if (!('user' in to)) expect(body.counts).toMatchObject({ sent, delivered });
      }
    });
  }
}

let service: Service;
beforeAll(async () => {
  service = await startService({ RECEIPTS_FLUSH_MS: 50, LOG_POLL_MS: 200 });
});
afterAll(async () => {
  await service.close();
});

test('whatever is published, cut, resumed and acknowledged, every stream has what it must and history says the truth', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(command, { minLength: 5, maxLength: 25 }), async (commands) => {
      const run = new Run(service);
      try {
        for (const step of commands) await run.execute(step);
        await run.compareHistory();
      } finally {
        for (const device of run.devices) await run.cut(device);
      }
    }),
    { numRuns: 60, endOnFailure: true },
  );
});
