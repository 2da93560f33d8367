import { expect, test } from '@jest/globals';
import { Budgets } from '../../src/auth/budgets.ts';
import { Problem } from '../../src/core/errors.ts';
import { tenantIdSchema, userIdSchema } from '../../src/core/identifiers.ts';
import { LIMIT_NAMES, type Limits } from '../../src/core/limits.ts';

const limits = (connectionsPerUser: number): Limits => ({
  ...(Object.fromEntries(LIMIT_NAMES.map((name) => [name, 1])) as Record<keyof Limits, number>),
  connectionsPerUser,
});
const caller = (tenant: string, user: string) => ({
  tenantId: tenantIdSchema.parse(tenant),
  subject: userIdSchema.parse(user),
});
const alice = caller('acme', 'alice');

/** How many calls in a row are paid for, and the seconds that the next one is told to wait. */
function runDry(budgets: Budgets, who: typeof alice, now: number) {
  for (let paid = 0; ; paid += 1) {
    try {
      budgets.pay('tickets', who, now);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return { paid, code: error.code, wait: Number(error.headers['retry-after']) };
    }
  }
}

test('a user may ask twice per stream that it may have, and has one more once the time is over that it was told', () => {
  const budgets = new Budgets({ limits: () => limits(20) });
  expect(runDry(budgets, alice, 1_000)).toEqual({ paid: 40, code: 'too_many_requests', wait: 1 });
  expect(runDry(budgets, alice, 1_000)).toMatchObject({ paid: 0 });
  expect(runDry(budgets, alice, 2_000)).toMatchObject({ paid: 10 });
  // Ten a second, and never more than what may be asked at once.
  expect(runDry(budgets, alice, 3_600_000)).toMatchObject({ paid: 40 });
});

test('what is refused costs nothing, so that who repeats without waiting waits no longer', () => {
  const budgets = new Budgets({ limits: () => limits(10) });
  runDry(budgets, alice, 0);
  for (let now = 0; now < 200; now += 1) expect(runDry(budgets, alice, now)).toMatchObject({ paid: 0 });
  expect(runDry(budgets, alice, 200)).toMatchObject({ paid: 1 });
});

test('what one user has spent is nobody else’s, neither in its tenant nor under its name in another', () => {
  const budgets = new Budgets({ limits: (tenant) => limits(tenant === 'acme' ? 20 : 1_000) });
  runDry(budgets, alice, 0);
  expect(runDry(budgets, caller('acme', 'bob'), 0)).toMatchObject({ paid: 40 });
  expect(runDry(budgets, caller('globex', 'alice'), 0)).toMatchObject({ paid: 2_000 });
  expect(runDry(budgets, alice, 0)).toMatchObject({ paid: 0 });
});

test('what was spent on one thing is not missing for another', () => {
  const budgets = new Budgets({ limits: () => limits(10) });
  runDry(budgets, alice, 0);
  for (let i = 0; i < 20; i += 1) budgets.pay('renewals', alice, 0);
  for (let i = 0; i < 200; i += 1) budgets.pay('acknowledgements', alice, 0);
  for (const name of ['renewals', 'acknowledgements'] as const)
    expect(() => budgets.pay(name, alice, 0)).toThrow(name);
});

test('what administrators of a tenant do is paid together', () => {
  const budgets = new Budgets({ limits: () => limits(1) });
  const [one, other] = [caller('acme', 'one'), caller('acme', 'other')];
  for (let i = 0; i < 500; i += 1) budgets.pay('admin actions', i % 2 === 0 ? one : other, 0);
  expect(() => budgets.pay('admin actions', one, 0)).toThrow(
    /500 admin actions at once, and for 20 per second/,
  );
  budgets.pay('admin actions', caller('globex', 'one'), 0);
});
