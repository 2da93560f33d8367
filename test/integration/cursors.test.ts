import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { TenantId } from '../../src/core/identifiers.ts';
import type { AckResult } from '../../src/receipts/acknowledgements.ts';
import type { DeviceRegistration, Registered } from '../../src/receipts/devices.store.ts';
import { asPosition, START } from '../../src/core/position.ts';
import {
  ack,
  registration,
  deviceId,
  ReceiptsBench,
  letIn,
  userId,
  type ReceiptsNode,
} from '../support/receipts.ts';

/*
 * Arrivals, acknowledgements and the cursors of ack=auto in random order, against a model that is small enough to be
 * right by reading.
 */

let bench: ReceiptsBench;
let left: ReceiptsNode;
let right: ReceiptsNode;

beforeAll(async () => {
  bench = await ReceiptsBench.open();
  left = bench.node();
  right = bench.node();
  await left.partitions.ensureCovering(START);
});
afterAll(async () => {
  await bench.close();
});

interface Device {
  user: string;
  device: string;
}
type Step =
  | {
      kind: 'arrive';
      arrivals: (Device & {
        resume: number | undefined;
        malformed: boolean;
        from: DeviceRegistration['from'];
      })[];
    }
  | { kind: 'acknowledge'; acks: (Device & { upTo: number })[] }
  | { kind: 'auto'; moves: (Device & { position: number })[] }
  | { kind: 'publish'; count: number }
  | { kind: 'retain'; floor: number };

const FIRST_HEAD = 40;
const position = fc.integer({ min: 0, max: 90 });
const device = { user: fc.constantFrom('alice', 'bob'), device: fc.constantFrom('phone', 'tablet', 'watch') };
const from = fc.constantFrom('undelivered' as const, 'latest' as const, 'earliest' as const);
const malformed = fc.integer({ min: 0, max: 9 }).map((n) => n === 0);
const several = <Item>(item: fc.Arbitrary<Item>) => fc.array(item, { minLength: 1, maxLength: 4 });

const arrive = several(
  fc.record({ ...device, resume: fc.option(position, { nil: undefined }), malformed, from }),
).map((arrivals): Step => ({ kind: 'arrive', arrivals }));
const acknowledge = several(fc.record({ ...device, upTo: position })).map((acks): Step => ({
  kind: 'acknowledge',
  acks,
}));
const auto = several(fc.record({ ...device, position: fc.integer({ min: 0, max: FIRST_HEAD }) })).map(
  (moves): Step => ({ kind: 'auto', moves }),
);
const publish = fc.integer({ min: 1, max: 20 }).map((count): Step => ({ kind: 'publish', count }));
const retain = fc.integer({ min: 0, max: 60 }).map((floor): Step => ({ kind: 'retain', floor }));

/** What the stores must do, one thing after the other. */
class Model {
  head = FIRST_HEAD;
  floor = 0;
  readonly cursors = new Map<string, number>();
  /** What each device confirmed. */
  readonly confirmed = new Map<string, Set<number>>();

  /** What the stores answer. */
  run(step: Step) {
    if (step.kind === 'arrive') return { arrived: this.arrive(step.arrivals) };
    if (step.kind === 'acknowledge') return { results: this.acknowledge(step.acks) };
    if (step.kind === 'auto') this.auto(step.moves);
    if (step.kind === 'publish') this.head += step.count;
    if (step.kind === 'retain') this.floor = Math.max(this.floor, Math.min(step.floor, this.head));
    return {};
  }

  arrive(arrivals: Extract<Step, { kind: 'arrive' }>['arrivals']) {
    // New devices of one crowd do not learn from one another.
    const furthest = new Map(
      [...this.confirmed].map(([name, positions]) => [name, Math.max(-1, ...positions)]),
    );
    return arrivals.map(({ user, device: name, resume, malformed: broken, from: start }) => {
      const key = `${user}/${name}`;
      const others = [...furthest].filter(([other]) => other.startsWith(`${user}/`)).map(([, to]) => to);
      const cursor =
        this.cursors.get(key) ?? (Math.max(-1, ...others) >= 0 ? Math.max(...others) : this.floor);
      this.cursors.set(key, cursor);
      if (resume !== undefined && !broken && resume <= this.head) {
        this.#confirm(key, resume);
        return {
          start: Math.max(resume, this.floor),
          outcome: resume < this.floor ? 'gap' : 'exact',
          cursor: this.cursors.get(key),
        };
      }
      const reset = broken || resume !== undefined;
      if (start === 'latest') this.cursors.set(key, Math.max(cursor, this.head));
      const starts = { latest: this.head, earliest: this.floor, undelivered: Math.max(cursor, this.floor) };
      const outcome = start === 'undelivered' && cursor < this.floor ? 'gap' : start;
      return { start: starts[start], outcome: reset ? 'reset' : outcome, cursor: this.cursors.get(key) };
    });
  }

  acknowledge(acks: Extract<Step, { kind: 'acknowledge' }>['acks']) {
    return acks.map(({ user, device: name, upTo }) => {
      if (upTo > this.head) return 'ahead';
      if (!this.cursors.has(`${user}/${name}`)) return 'device_unknown';
      this.#confirm(`${user}/${name}`, upTo);
      return 'confirmed';
    });
  }

  auto(moves: Extract<Step, { kind: 'auto' }>['moves']): void {
    for (const { user, device: name, position: to } of moves) {
      const key = `${user}/${name}`;
      const cursor = this.cursors.get(key);
      if (cursor !== undefined) this.cursors.set(key, Math.max(cursor, to));
    }
  }

  #confirm(key: string, upTo: number): void {
    const cursor = this.cursors.get(key) ?? 0;
    this.cursors.set(key, Math.max(cursor, upTo));
    const positions = this.confirmed.get(key) ?? new Set();
    this.confirmed.set(key, positions);
    if (upTo > this.floor) for (let at = cursor + 1; at <= upTo; at += 1) positions.add(at);
  }
}

/** Runs a step and says what the stores answered. */
async function run(
  node: ReceiptsNode,
  tenant: TenantId,
  step: Step,
): Promise<{ arrived?: Registered[]; results?: AckResult[] }> {
  if (step.kind === 'arrive')
    return { arrived: letIn(await node.arrivals.register(tenant, step.arrivals.map(registration))) };
  if (step.kind === 'acknowledge')
    return {
      results: await node.acks.acknowledge(
        tenant,
        step.acks.map(({ upTo, ...who }) => ack(upTo, who)),
      ),
    };
  if (step.kind === 'auto') {
    const moves = step.moves.map(({ user, device: name, position: to }) => ({
      user: userId(user),
      device: deviceId(name),
      position: asPosition(to),
      openedAt: 0,
    }));
    await node.receipts.moveCursors(tenant, moves);
  }
  return {};
}

async function stored(tenant: TenantId) {
  const devices = await bench.database.query<{ name: string; cursor: number }>(
    `select user_id || '/' || device_id as name, cursor from devices where tenant_id = $1`,
    [tenant],
  );
  const acks = await bench.database.query<{ name: string; from_position: number; to_position: number }>(
    `select user_id || '/' || device_id as name, from_position, to_position from acks where tenant_id = $1`,
    [tenant],
  );
  const confirmed = new Map<string, number[]>();
  for (const { name, from_position, to_position } of acks) {
    const positions = confirmed.get(name) ?? [];
    confirmed.set(name, positions);
    for (let at = from_position + 1; at <= to_position; at += 1) positions.push(at);
  }
  return { cursors: new Map(devices.map(({ name, cursor }) => [name, cursor])), confirmed };
}

const sorted = (positions: Iterable<number>) => [...positions].toSorted((a, b) => a - b);

test('what is stored and answered is what the model says, and nothing is confirmed twice', async () => {
  const steps = fc.array(
    fc.oneof({ weight: 4, arbitrary: arrive }, { weight: 4, arbitrary: acknowledge }, auto, publish, retain),
    { minLength: 1, maxLength: 14 },
  );
  await fc.assert(
    fc.asyncProperty(steps, async (sequence) => {
      const tenant = await bench.tenant({ head: FIRST_HEAD });
      const model = new Model();
      for (const step of sequence) {
        const answer = await run(left, tenant, step);
        expect(answer).toMatchObject(model.run(step));
        await bench.setStream(tenant, { head: model.head, floor: model.floor });
      }
      const { cursors, confirmed } = await stored(tenant);
      expect(cursors).toEqual(model.cursors);
      for (const [name, positions] of model.confirmed)
        expect(sorted(confirmed.get(name) ?? [])).toEqual(sorted(positions));
      for (const name of confirmed.keys()) expect(model.confirmed.has(name)).toBe(true);
    }),
    { numRuns: 100 },
  );
});

/** Two nodes, each with its own sequence, at the same time. */
async function runOnBoth(sequences: readonly [Step[], Step[]]) {
  const tenant = await bench.tenant({ head: 100 });
  const cursorsSeen = await Promise.all(
    ([left, right] as const).map(async (node, side) => {
      const seen = new Map<string, number[]>();
      for (const step of sequences[side] ?? []) {
        const { arrived = [] } = await run(node, tenant, step);
        arrived.forEach(({ cursor }, index) => {
          const who = step.kind === 'arrive' ? step.arrivals[index] : undefined;
          const name = `${who?.user}/${who?.device}`;
          seen.set(name, [...(seen.get(name) ?? []), cursor]);
        });
      }
      return seen;
    }),
  );
  for (const seen of cursorsSeen)
    for (const cursors of seen.values()) expect(cursors).toEqual(sorted(cursors));
  return await stored(tenant);
}

test('on two nodes at once no position is confirmed twice and no cursor goes back, whatever skips', async () => {
  const steps = fc.array(fc.oneof(arrive, acknowledge, auto), { minLength: 1, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(steps, steps, async (one, two) => {
      const { cursors, confirmed } = await runOnBoth([one, two]);
      for (const [name, positions] of confirmed) {
        expect(sorted(new Set(positions))).toEqual(sorted(positions));
        expect(Math.max(...positions)).toBeLessThanOrEqual(cursors.get(name) ?? -1);
      }
    }),
    { numRuns: 60 },
  );
});

test('on two nodes at once, where nobody skips, all up to the cursor is confirmed exactly once', async () => {
  // One device per user: the cursor of a first connect would depend on who came first otherwise.
  const alone = <Item extends Device>(items: Item[]) => items.map((item) => ({ ...item, device: 'phone' }));
  const comeBack = arrive.map((step): Step =>
    step.kind === 'arrive'
      ? { kind: 'arrive', arrivals: alone(step.arrivals).map((one) => ({ ...one, from: 'undelivered' })) }
      : step,
  );
  const confirm = acknowledge.map((step): Step =>
    step.kind === 'acknowledge' ? { kind: 'acknowledge', acks: alone(step.acks) } : step,
  );
  const steps = fc.array(fc.oneof(comeBack, confirm), { minLength: 1, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(steps, steps, async (one, two) => {
      const { cursors, confirmed } = await runOnBoth([one, two]);
      for (const [name, cursor] of cursors) {
        expect(sorted(confirmed.get(name) ?? [])).toEqual(Array.from({ length: cursor }, (_, n) => n + 1));
      }
    }),
    { numRuns: 60 },
  );
});
