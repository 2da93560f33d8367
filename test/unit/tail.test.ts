import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { topicSchema, userIdSchema } from '../../src/core/identifiers.ts';
import type { Notification, Recipient } from '../../src/core/notification.ts';
import { asPosition } from '../../src/core/position.ts';
import { addressOfTopic, addressOfUser, Entry, EVERYONE, Tail } from '../../src/delivery/tail.ts';
import { notification } from '../support/notifications.ts';

const user = (name: string): Recipient => ({ user: userIdSchema.parse(name) });
const topic = (name: string): Recipient => ({ topic: topicSchema.parse(name) });
const RECIPIENTS: readonly Recipient[] = [user('a'), user('b'), topic('a'), topic('b'), { everyone: true }];
const ADDRESSES = [
  addressOfUser('a'),
  addressOfUser('b'),
  addressOfTopic('a'),
  addressOfTopic('b'),
  EVERYONE,
];

const batch = (previous: number, head: number, notifications: readonly Notification[]) => ({
  previous: asPosition(previous),
  head: asPosition(head),
  notifications,
});

const positions = (entries: readonly Entry[] | undefined) => entries?.map(({ position }) => Number(position));

describe('what a batch becomes', () => {
  test('one that follows the head is taken, one that is known or leaves a hole is not', () => {
    const tail = new Tail(asPosition(10));
    expect(
      positions(
        tail.append(
          batch(10, 12, [notification(11, { to: user('a') }), notification(12, { to: user('b') })]),
        ) as Entry[],
      ),
    ).toEqual([11, 12]);
    expect(tail.append(batch(10, 12, []))).toBe('known');
    expect(tail.append(batch(14, 15, [notification(15, { to: user('a') })]))).toBe('hole');
    expect(tail.append(batch(11, 15, [notification(15, { to: user('a') })]))).toBe('hole');
    expect(tail.head).toBe(12);
    expect(positions(tail.after(asPosition(10), ADDRESSES))).toEqual([11, 12]);
  });

  test('one that holds nothing moves the head', () => {
    const tail = new Tail(asPosition(10));
    expect(tail.append(batch(10, 20, []))).toEqual([]);
    expect(tail.head).toBe(20);
  });
});

test('a user and a topic of the same name are two addresses', () => {
  const tail = new Tail(asPosition(0));
  tail.append(batch(0, 2, [notification(1, { to: user('a') }), notification(2, { to: topic('a') })]));
  expect(positions(tail.after(asPosition(0), [addressOfUser('a')]))).toEqual([1]);
  expect(positions(tail.after(asPosition(0), [addressOfTopic('a')]))).toEqual([2]);
});

test('an entry is encoded once', () => {
  const entry = new Entry(notification(1, { to: user('a') }));
  expect(entry.frame).toBe(entry.frame);
});

/** What can happen to a tail. */
const steps = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        append: fc.array(
          fc.record({
            gap: fc.integer({ min: 1, max: 3 }),
            to: fc.nat({ max: 4 }),
            size: fc.nat({ max: 500 }),
          }),
          { maxLength: 5 },
        ),
        beyond: fc.nat({ max: 3 }),
      }),
    },
    { weight: 2, arbitrary: fc.record({ trim: fc.nat({ max: 8_000 }) }) },
    { weight: 1, arbitrary: fc.record({ restart: fc.integer({ min: 1, max: 10 }) }) },
    { weight: 1, arbitrary: fc.record({ forget: fc.nat({ max: 4 }), upTo: fc.nat({ max: 60 }) }) },
  ),
  { maxLength: 40 },
);

/** Whether `from` is the beginning of the window is seen from outside: one below it is unknown. */
const knows = (tail: Tail, from: number) => tail.after(asPosition(from), []) !== undefined;

test('whatever happened, a reader gets exactly what a plain list would give it, or hears that the window begins later', () => {
  fc.assert(
    fc.property(steps, fc.subarray(ADDRESSES), (history, addresses) => {
      const tail = new Tail(asPosition(100));
      // The model: everything ever appended, and the first position from which nothing may be missing.
      let all: { position: number; address: string; weight: number }[] = [];
      let head = 100;
      let since = 100;
      for (const step of history) {
        if ('append' in step) {
          const previous = head;
          const notifications = step.append.map(({ gap, to, size }) => {
            head += gap;
            return notification(head, { to: RECIPIENTS[to] ?? { everyone: true }, size });
          });
          head += step.beyond;
          if (head === previous) continue;
          const taken = tail.append(batch(previous, head, notifications));
          expect(positions(taken as Entry[])).toEqual(notifications.map(({ position }) => Number(position)));
          for (const { address, position, weight } of taken as Entry[])
            all.push({ address, position, weight });
        } else if ('trim' in step) {
          tail.trim(step.trim);
          expect(tail.weight).toBeLessThanOrEqual(step.trim);
        } else if ('forget' in step) {
          const gone = ADDRESSES[step.forget] ?? EVERYONE;
          tail.forget(gone, asPosition(100 + step.upTo));
          all = all.filter(({ address, position }) => address !== gone || position > 100 + step.upTo);
        } else {
          head += step.restart;
          since = head;
          tail.restart(asPosition(head));
        }
      }
      expect(tail.head).toBe(head);
      for (let from = 98; from <= head + 1; from += 1) {
        const got = positions(tail.after(asPosition(from), addresses));
        if (got === undefined) continue;
        expect(from).toBeGreaterThanOrEqual(since);
        expect(got).toEqual(
          all
            .filter(({ position, address }) => position > from && addresses.includes(address))
            .map(({ position }) => position),
        );
      }
      const kept = all
        .filter(({ position }) => position > since && knows(tail, position - 1))
        .reduce((sum, { weight }) => sum + weight, 0);
      expect(tail.weight).toBe(kept);
      expect(knows(tail, head)).toBe(true);
    }),
    { numRuns: 300 },
  );
});
