import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  asPosition,
  createdAt,
  EPOCH_MS,
  parsePosition,
  positionOfTime,
  POSITIONS_PER_MS,
  timeOfPosition,
} from '../../src/core/position.ts';

describe('reading a position', () => {
  test('every position is read back from its decimal form', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        expect(parsePosition(String(value))).toBe(value);
      }),
    );
  });

  test.each([
    ['nothing', ''],
    ['letters', 'abc'],
    ['a sign', '-1'],
    ['a plus', '+1'],
    ['a leading zero', '01'],
    ['a fraction', '1.0'],
    ['an exponent', '1e3'],
    ['hexadecimal', '0x10'],
    ['a space before', ' 1'],
    ['a space after', '1 '],
    ['a line feed after', '1\n'],
    ['a NUL', '1\u0000'],
    ['digits of another script', '\u0661\u0662'],
    ['the first number that is not safe', String(2 ** 53)],
    ['400 digits', '9'.repeat(400)],
  ])('%s is no position', (_, text) => {
    expect(parsePosition(text)).toBeUndefined();
  });

  test('text is a position only in the one form that the service writes', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9 +.-]{1,18}$/)), (text) => {
        const position = parsePosition(text);
        if (position !== undefined) expect(String(position)).toBe(text);
      }),
    );
  });
});

describe('the time in a position', () => {
  const times = fc.integer({ min: EPOCH_MS, max: Date.UTC(2089, 0, 1) });

  test('is the millisecond that it was made in, whatever its count', () => {
    fc.assert(
      fc.property(times, fc.nat({ max: POSITIONS_PER_MS - 1 }), (ms, count) => {
        const position = asPosition(positionOfTime(ms) + count);
        expect(Number.isSafeInteger(position)).toBe(true);
        expect(timeOfPosition(position)).toBe(ms);
        expect(createdAt(position)).toBe(new Date(ms).toISOString());
      }),
    );
  });

  test('grows with time, and is zero for a time before the first', () => {
    fc.assert(
      fc.property(times, times, (a, b) => {
        expect(Math.sign(positionOfTime(a) - positionOfTime(b))).toBe(Math.sign(a - b));
      }),
    );
    expect(positionOfTime(0)).toBe(0);
  });
});
