import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { tenantIdSchema, topicSchema, userIdSchema } from '../../src/core/identifiers.ts';
import type { Notification, Recipient } from '../../src/core/notification.ts';
import { asPosition, type Position } from '../../src/core/position.ts';
import { DatabaseClock } from '../../src/postgres/clock.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import {
  addressOfTopic,
  addressOfUser,
  EVERYONE,
  type Address,
  type Entry,
} from '../../src/delivery/tail.ts';
import { TenantHub, type HubMember, type HubNode } from '../../src/delivery/tenant-hub.ts';
import { notification } from '../support/notifications.ts';

const acme = tenantIdSchema.parse('acme');
const alice = userIdSchema.parse('alice');
const news = topicSchema.parse('news');

/** In ms. It goes on only by writes that take time: where a slice of work ends depends on no machine. */
let clock = 0;
beforeEach(() => {
  jest.spyOn(performance, 'now').mockImplementation(() => clock);
});
afterEach(() => {
  jest.restoreAllMocks();
});

class Member implements HubMember {
  readonly got: number[] = [];
  /** How many of them came at once each time. */
  readonly runs: number[] = [];
  /** `takes`: how long a write to it keeps the event loop, in ms. */
  constructor(
    public addresses: readonly Address[],
    private readonly takes = 0,
  ) {}
  get position(): Position {
    return asPosition(this.got.at(-1) ?? 0);
  }
  deliver(entries: readonly Entry[]): void {
    const unseen = entries.filter(({ position }) => position > this.position);
    if (unseen.length === 0) return;
    this.got.push(...unseen.map(({ position }) => position));
    this.runs.push(unseen.length);
    clock += this.takes;
  }
  fallBehind(): void {}
  readOn(): Promise<void> {
    return Promise.resolve();
  }
}

const node: HubNode = {
  metrics: new Metrics(),
  clock: new DatabaseClock(),
  readAfter: () => Promise.reject(new Error('there is no log behind it')),
  trim: () => undefined,
  databaseTrouble: () => undefined,
};

test('a stream that gets other addresses between two turns of a dispatch misses nothing of those that it keeps', async () => {
  const hub = new TenantHub<Member>(acme, asPosition(0), node);
  const own = addressOfUser(alice);
  // It takes so long that the turn ends behind the first of them.
  const first = new Member([EVERYONE], 20);
  const second = new Member([own, EVERYONE]);
  const others = Array.from({ length: 20 }, () => new Member([EVERYONE]));
  for (const member of [first, ...others, second]) hub.join(member);
  hub.offer({
    previous: asPosition(0),
    head: asPosition(2),
    notifications: [notification(1, { to: { topic: news } }), notification(2, { to: { everyone: true } })],
    committedAt: 0,
  });
  // What is for many begins when this turn is over.
  await Promise.resolve();
  expect([first.got, second.got]).toEqual([[2], []]);

  hub.leave(first);
  const before = second.addresses;
  second.addresses = [own, EVERYONE, addressOfTopic(topicSchema.parse('more'))];
  hub.readdress(second, before);
  while (hub.dispatchedUpTo < 2) await setImmediate();
  expect(second.got).toEqual([2]);
});

test('a broadcast that takes long leaves the event loop to others in between', async () => {
  const hub = new TenantHub<Member>(acme, asPosition(0), node);
  const crowd = Array.from({ length: 20 }, () => new Member([EVERYONE], 5));
  for (const member of crowd) hub.join(member);
  hub.offer({
    previous: asPosition(0),
    head: asPosition(1),
    notifications: [notification(1, { to: { everyone: true } })],
    committedAt: 0,
  });
  const reached = () => crowd.filter(({ got }) => got.length > 0).length;
  const turns: number[] = [];
  while (reached() < crowd.length) {
    await setImmediate();
    turns.push(reached());
  }
  expect(turns).toEqual(crowd.map((_, n) => n + 1));
});

describe('while a broadcast is under way', () => {
  const own = addressOfUser(alice);

  /** Alice is the last of so many that a broadcast, at position 1, comes to. `notifications` come when it has reached the first. */
  function begun(notifications: Notification[], trim: HubNode['trim'] = () => undefined) {
    const hub = new TenantHub<Member>(acme, asPosition(0), { ...node, trim });
    const crowd = Array.from({ length: 20 }, () => new Member([EVERYONE], 2));
    const member = new Member([own, EVERYONE]);
    for (const joining of [...crowd, member]) hub.join(joining);
    hub.offer({
      previous: asPosition(0),
      head: asPosition(1),
      notifications: [notification(1, { to: { everyone: true } })],
      committedAt: 0,
    });
    hub.offer({
      previous: asPosition(1),
      head: asPosition(1 + notifications.length),
      notifications,
      committedAt: 0,
    });
    const reached = () => crowd.filter(({ got }) => got.length > 0).length;
    return { hub, crowd, member, reached };
  }

  test('a single user is served out of turn, with the broadcast before', async () => {
    const { hub, crowd, member, reached } = begun([
      notification(2, { to: { user: alice } }),
      notification(3, { to: { everyone: true } }),
      notification(4, { to: { user: alice } }),
    ]);
    while (member.got.length === 0) await setImmediate();
    expect(reached()).toBeLessThan(5);
    expect([member.got, Number(hub.dispatchedUpTo)]).toEqual([[1, 2, 3, 4], 0]);
    while (hub.dispatchedUpTo < 4) await setImmediate();
    expect(member.got).toEqual([1, 2, 3, 4]);
    for (const { got } of crowd) expect(got).toEqual([1, 3]);
  });

  test('a single user waits for it where the tail does not go back as far', async () => {
    const { hub, member } = begun([notification(2, { to: { user: alice } })], (tail) => tail.trim(0));
    while (hub.dispatchedUpTo < 2) await setImmediate();
    expect(member.got).toEqual([1, 2]);
  });

  test('nothing of it is settled before the last of them has it', async () => {
    const { hub, crowd, reached } = begun([notification(2, { to: { user: alice } })]);
    while (hub.dispatchedUpTo < 1) await setImmediate();
    expect([reached(), Number(hub.dispatchedUpTo)]).toEqual([crowd.length, 2]);
  });
});

test('what follows one another at one address comes at once, and nothing overtakes anything', () => {
  const hub = new TenantHub<Member>(acme, asPosition(0), node);
  const member = new Member([addressOfUser(alice), EVERYONE]);
  hub.join(member);
  const to: Recipient[] = [
    { user: alice },
    { user: alice },
    { everyone: true },
    { topic: news },
    { user: alice },
  ];
  hub.offer({
    previous: asPosition(0),
    head: asPosition(5),
    notifications: to.map((recipient, n) => notification(n + 1, { to: recipient })),
    committedAt: 0,
  });
  expect([member.got, member.runs]).toEqual([
    [1, 2, 3, 5],
    [2, 1, 1],
  ]);
});

test('what is forgotten is only what is for the user, as far as it is meant, also when it is just being read', async () => {
  const bob = userIdSchema.parse('bob');
  let answer: () => void = () => undefined;
  const read = new Promise<void>((resolve) => {
    answer = resolve;
  });
  const mixed = [1, 2, 3].flatMap((n) => [
    notification(3 * n, { to: { user: alice } }),
    notification(3 * n + 1, { to: { user: bob } }),
    notification(3 * n + 2, { to: { everyone: true } }),
  ]);
  const reading: HubNode = {
    ...node,
    readAfter: async () => {
      await read;
      return { notifications: mixed, upTo: asPosition(11), head: asPosition(11) };
    },
  };
  const hub = new TenantHub<Member>(acme, asPosition(0), reading);
  const reached = hub.reach(asPosition(11));
  const forgotten = hub.purge((user) => user === 'alice', asPosition(6));
  answer();
  await Promise.all([reached, forgotten]);
  const at = (address: Address) =>
    hub.tail.after(asPosition(0), [address])?.map(({ position }) => Number(position));
  expect([at(addressOfUser(alice)), at(addressOfUser(bob)), at(EVERYONE)]).toEqual([
    [9],
    [4, 7, 10],
    [5, 8, 11],
  ]);
});
