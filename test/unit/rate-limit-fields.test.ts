import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { limitsOf, readLimits } from '../../src/core/limits.ts';
import { readConfig } from '../../src/core/config.ts';
import { rateLimitFields } from '../../src/publishing/publish-admission.ts';

const config = readConfig({});
const fields = (rate: number, burst: number, left: number, retryAfter?: number) => {
  const limits = limitsOf(readLimits({ notificationsPerSecond: rate, burst }), config);
  const wait = (Math.max(0, 1 - left) / rate) * 1000;
  return rateLimitFields({ limits, left, wait }, retryAfter);
};

test.each<[rate: number, burst: number, left: number, policy: string, limit: string]>([
  [10_000, 20_000, 20_000, '"notifications";q=20000;w=2', '"notifications";r=20000;t=2'],
  [10, 100, 50.9, '"notifications";q=100;w=10', '"notifications";r=50;t=5'],
  [10, 100, 3, '"notifications";q=100;w=10', '"notifications";r=3;t=1'],
  [10, 100, 0.4, '"notifications";q=100;w=10', '"notifications";r=0;t=1'],
  [1, 5, -7, '"notifications";q=5;w=5', '"notifications";r=0;t=8'],
  [3, 7, 7, '"notifications";q=7;w=3', '"notifications";r=7;t=3'],
  [1_000, 10, 10, '"notifications";q=10;w=1', '"notifications";r=10;t=1'],
])('%i a second and %i at once, %d left', (rate, burst, left, policy, limit) => {
  expect(fields(rate, burst, left)).toEqual({ 'ratelimit-policy': policy, ratelimit: limit });
});

describe('of the draft', () => {
  const INTEGER = '(0|[1-9][0-9]{0,14})';
  const anything = fc.record({
    rate: fc.integer({ min: 1, max: 1_000_000 }),
    burst: fc.integer({ min: 1, max: 1_000_000_000 }),
    share: fc.double({ min: -3, max: 1, noNaN: true }),
    retryAfter: fc.option(fc.integer({ min: 1, max: 100 }), { nil: undefined }),
  });

  test('the fields are lists of one string with integers as parameters, the window longer than nothing', () => {
    fc.assert(
      fc.property(anything, ({ rate, burst, share, retryAfter }) => {
        const told = fields(rate, burst, share * burst, retryAfter);
        expect(told['ratelimit-policy']).toMatch(new RegExp(`^"notifications";q=${INTEGER};w=[1-9][0-9]*$`));
        expect(told.ratelimit).toMatch(new RegExp(`^"notifications";r=${INTEGER};t=[1-9][0-9]*$`));
      }),
    );
  });

  test('neither invites to more than the rate, but for the second that is the least that can be said', () => {
    fc.assert(
      fc.property(anything, ({ rate, burst, share }) => {
        const told = fields(rate, burst, share * burst);
        const [q = 0, w = 0] = [...told['ratelimit-policy'].matchAll(/\d+/g)].map(Number);
        const [r = 0, t = 0] = [...told.ratelimit.matchAll(/\d+/g)].map(Number);
        expect(q / w).toBeLessThanOrEqual(Math.max(rate, q === burst && w === 1 ? burst : 0));
        expect(r / t).toBeLessThanOrEqual(rate);
      }),
    );
  });

  test('Retry-After does not lie before the end of the window', () => {
    fc.assert(
      fc.property(anything, ({ rate, burst, share, retryAfter = 1 }) => {
        const t = Number(/t=(\d+)/.exec(fields(rate, burst, share * burst, retryAfter).ratelimit)?.[1]);
        expect(t).toBeLessThanOrEqual(retryAfter);
      }),
    );
  });
});
