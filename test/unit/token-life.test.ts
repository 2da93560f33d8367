import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { TokenLife, type TokenNotice } from '../../src/delivery/connection.ts';

const NOW = 1_790_000_000_000;
const DAY_MS = 86_400_000;
const USUAL: TokenNotice = { TOKEN_EXPIRY_NOTICE_SECONDS: 60, TOKEN_EXPIRY_SPREAD_SECONDS: 5 };

/** How long a token of this length holds a stream open, in ms: found to the millisecond, whatever was drawn. */
function openFor(lifeMs: number, notice: TokenNotice = USUAL): number {
  const life = new TokenLife(NOW + lifeMs, NOW, notice);
  let [open, ended] = [-1, lifeMs];
  while (ended - open > 1) {
    const middle = Math.floor((open + ended) / 2);
    if (life.look(NOW + middle) === 'end') ended = middle;
    else open = middle;
  }
  return ended;
}

/** What looks at these moments find, in ms after NOW, until the end is due. */
function looks(life: TokenLife, moments: Iterable<number>): { at: number; due: 'end' | 'notice' }[] {
  const found: { at: number; due: 'end' | 'notice' }[] = [];
  for (const at of moments) {
    const due = life.look(NOW + at);
    if (due !== undefined) found.push({ at, due });
    if (due === 'end') break;
  }
  return found;
}

/** Short tokens, for which the tenth counts, and long ones. */
const lives = fc.oneof(
  fc.integer({ min: 1_501, max: 600_000 }),
  fc.integer({ min: 600_000, max: 400 * DAY_MS }),
);

const settings = fc.record({
  TOKEN_EXPIRY_NOTICE_SECONDS: fc.integer({ min: 0, max: 3_600 }),
  TOKEN_EXPIRY_SPREAD_SECONDS: fc.integer({ min: 0, max: 60 }),
});

describe('the end', () => {
  test('is found before the token ends by looks that are up to 0.4 s late, whatever the settings', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1_501, max: 20_000 }),
        settings,
        fc.array(fc.integer({ min: 1_000, max: 1_400 }), { minLength: 25, maxLength: 25 }),
        (lifeMs, notice, steps) => {
          let at = 0;
          const moments = [0, ...steps.map((step) => (at += step))];
          const last = looks(new TokenLife(NOW + lifeMs, NOW, notice), moments).at(-1);
          expect(last?.due).toBe('end');
          expect(last?.at).toBeLessThan(lifeMs);
        },
      ),
    );
  });

  test('comes at most a tenth of the token early, and at most the spread, besides the second and a half of the looks', () => {
    fc.assert(
      fc.property(lives, settings, (lifeMs, notice) => {
        const lost = lifeMs - openFor(lifeMs, notice);
        expect(lost).toBeGreaterThanOrEqual(1_500);
        const spread = Math.min(notice.TOKEN_EXPIRY_SPREAD_SECONDS * 1_000, lifeMs / 10);
        expect(lost).toBeLessThanOrEqual(1_501 + spread);
      }),
    );
  });

  test('of a thousand tokens that end together is spread over five seconds', () => {
    const early = Array.from({ length: 1_000 }, () => 3_600_000 - 1_500 - openFor(3_600_000));
    const perSecond = [0, 1, 2, 3, 4].map(
      (second) => early.filter((ms) => Math.floor(ms / 1_000) === second).length,
    );
    // 200 each, give or take six times the deviation.
    for (const count of perSecond) expect(Math.abs(count - 200)).toBeLessThan(80);
  });

  test('is not spread when that is set to nothing', () => {
    const notice = { ...USUAL, TOKEN_EXPIRY_SPREAD_SECONDS: 0 };
    expect(new Set(Array.from({ length: 50 }, () => openFor(60_000, notice)))).toEqual(new Set([58_500]));
  });

  test.each([25, 40, 3_650])('of a token of %i days is not near on its first day', (days) => {
    const life = new TokenLife(NOW + days * DAY_MS, NOW, USUAL);
    expect(looks(life, [0, 1_000, DAY_MS])).toEqual([]);
    expect(life.left(NOW)).toBe(days * DAY_MS);
  });

  test('is due at once for a token that has ended', () => {
    expect(new TokenLife(NOW - 1, NOW, USUAL).look(NOW)).toBe('end');
  });
});

describe('the notice', () => {
  const everySecond = (upTo: number) => Array.from({ length: upTo / 1_000 }, (_, i) => i * 1_000);

  test('comes once, a minute before the token ends', () => {
    const found = looks(new TokenLife(NOW + 120_000, NOW, USUAL), everySecond(120_000));
    expect(found).toEqual([
      { at: 60_000, due: 'notice' },
      { at: expect.any(Number), due: 'end' },
    ]);
  });

  test('of a token that is shorter than that comes at the first look', () => {
    const [first] = looks(new TokenLife(NOW + 30_000, NOW, USUAL), everySecond(30_000));
    expect(first).toEqual({ at: 0, due: 'notice' });
  });

  test('comes once for each token, and for a new one in its own time', () => {
    const life = new TokenLife(NOW + 100_000, NOW, USUAL);
    expect(looks(life, everySecond(80_000))).toEqual([{ at: 40_000, due: 'notice' }]);
    expect(life.renew(NOW + 300_000, NOW + 80_000, NOW + 80_000)).toBe(true);
    const found = looks(
      life,
      everySecond(300_000).filter((at) => at >= 80_000),
    );
    expect(found.map(({ due }) => due)).toEqual(['notice', 'end']);
    expect(found[0]?.at).toBe(240_000);
  });
});

describe('a renewal', () => {
  test('by the same token again warns of no end that was warned of', () => {
    const life = new TokenLife(NOW + 90_000, NOW, USUAL);
    expect(life.look(NOW + 40_000)).toBe('notice');
    life.renew(NOW + 90_000, 1, NOW + 41_000);
    expect(life.look(NOW + 42_000)).toBeUndefined();
    life.renew(NOW + 91_000, 2, NOW + 43_000);
    expect(life.look(NOW + 44_000)).toBe('notice');
  });

  test('moves the end, by what the new token has left and not by what the old one had', () => {
    const notice = { TOKEN_EXPIRY_NOTICE_SECONDS: 0, TOKEN_EXPIRY_SPREAD_SECONDS: 60 };
    for (let i = 0; i < 100; i += 1) {
      const life = new TokenLife(NOW + 10 * DAY_MS, NOW, notice);
      life.renew(NOW + 20_000, 1, NOW);
      // A tenth of 20 s, and the looks.
      expect(life.look(NOW + 20_000 - 2_000 - 1_501)).toBeUndefined();
      expect(life.look(NOW + 20_000 - 1_500)).toBe('end');
    }
  });

  test('counts by when it was ordered and not by when it was heard: the latest order wins', () => {
    const orders = fc.array(fc.record({ at: fc.nat(20), expiresAt: fc.nat(1_000_000) }), { minLength: 1 });
    fc.assert(
      fc.property(orders, (heard) => {
        const life = new TokenLife(NOW, NOW, USUAL);
        for (const { at, expiresAt } of heard) life.renew(NOW + expiresAt, at, NOW);
        const latest = Math.max(...heard.map(({ at }) => at));
        expect(life.left(NOW)).toBe(heard.findLast(({ at }) => at === latest)?.expiresAt);
      }),
    );
  });

  test('that was overtaken by a later one says so', () => {
    const life = new TokenLife(NOW + 60_000, NOW, USUAL);
    expect(life.renew(NOW + 300_000, 2, NOW)).toBe(true);
    expect(life.renew(NOW + 600_000, 1, NOW)).toBe(false);
    expect(life.left(NOW)).toBe(300_000);
  });
});
