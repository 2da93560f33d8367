import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { OpenIntervals, type Reader, type SentInterval } from '../../src/receipts/receipts.ts';
import { tenantIdSchema, userIdSchema } from '../../src/core/identifiers.ts';
import { asPosition } from '../../src/core/position.ts';
import { deviceId } from '../support/receipts.ts';

let now = 0;
beforeEach(() => {
  now = 0;
  jest.spyOn(performance, 'now').mockImplementation(() => now);
});
afterEach(() => {
  jest.restoreAllMocks();
});

/** So many streams that are written to; `write` writes to each of them. */
function written(to: OpenIntervals, count: number) {
  const streams = Array.from({ length: count }, (_, n) => {
    const subscriber: Reader = {
      connectionId: `stream-${n}`,
      tenantId: tenantIdSchema.parse('acme'),
      user: userIdSchema.parse('alice'),
      device: deviceId('phone'),
      topics: [],
      autoAck: false,
      openedAt: 0,
    };
    let interval: SentInterval | undefined;
    return {
      subscriber,
      takeInterval() {
        const taken = interval;
        interval = undefined;
        return taken;
      },
      write(position: number): void {
        if (interval !== undefined) interval.to = asPosition(position);
        else {
          interval = { from: asPosition(position - 1), to: asPosition(position), at: now, replayed: false };
          to.add(this);
        }
      },
    };
  });
  return (position: number) => streams.forEach((stream) => stream.write(position));
}

const collected = (intervals: OpenIntervals) =>
  [...intervals.collect()].map(([, { from, to }]) => `${from}-${to}`);

test('few streams have their intervals collected every time', () => {
  const intervals = new OpenIntervals(100);
  const write = written(intervals, 2);
  const found: string[][] = [];
  for (let position = 1; position <= 3; position += 1) {
    write(position);
    found.push(collected(intervals));
    now += 20;
  }
  expect(found).toEqual([
    ['0-1', '0-1'],
    ['1-2', '1-2'],
    ['2-3', '2-3'],
  ]);
});

test('after many were collected they grow for as long as that many rows take', () => {
  const intervals = new OpenIntervals(100);
  const write = written(intervals, 50);
  write(1);
  expect(collected(intervals)).toHaveLength(50);
  for (let position = 2; now < 499; position += 1) {
    write(position);
    expect(collected(intervals)).toEqual([]);
    now += 100;
  }
  expect(new Set(collected(intervals))).toEqual(new Set(['1-6']));
});
