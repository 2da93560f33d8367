import { Inject, Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { Problem } from '../core/errors.ts';
import { Tenants } from '../tenants/tenants.ts';
import { RouteSettings, type Principal } from '../http/access.ts';

/**
 * What a caller may ask for at once after a pause, and per second in the long run, on each node. Of a user: for every
 * stream that a user of the tenant may have, since that is what these are asked for; ten times as fast as the
 * documented client ever does, but for acknowledgements, of which it sends two a second at most. Of a tenant: as it
 * stands here.
 */
const BUDGETS = {
  tickets: { whose: 'user', atOnce: 2, perSecond: 0.5 },
  renewals: { whose: 'user', atOnce: 2, perSecond: 0.5 },
  acknowledgements: { whose: 'user', atOnce: 20, perSecond: 2 },
  // Of the inbox: marks, lists and counts.
  'inbox calls': { whose: 'user', atOnce: 20, perSecond: 2 },
  // Revocations, disconnects, erasures: each is a transaction with its record, of which every node hears.
  'admin actions': { whose: 'tenant', atOnce: 500, perSecond: 20 },
} as const;
export type BudgetName = keyof typeof BUDGETS;

/** Where users may have few streams, they may still reload a page. */
const LEAST_STREAMS = 10;

/** Most budgets that are kept; whoever is met again after that begins anew. */
const MOST_KEPT = 50_000;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What calls of the handler are paid from. */
    budget?: BudgetName;
  }
}

/** What calls of a handler are paid from; 429 `too_many_requests` when there is nothing left. */
export const PaidFrom = (budget: BudgetName): MethodDecorator => RouteSettings({ budget });

interface Spent {
  /** Calls that are not paid off yet; time pays. */
  readonly calls: number;
  /** ms of a clock that never goes back. */
  readonly at: number;
}

/**
 * Keeps what one caller asks for from being what all others wait for. In memory, hence by node and free: what is shared, the
 * rows of tickets, orders and acknowledgements, is bounded by the nodes together.
 */
@Injectable()
export class Budgets {
  readonly #spent = new LRUCache<string, Spent>({ max: MOST_KEPT });

  constructor(@Inject(Tenants) private readonly tenants: Pick<Tenants, 'limits'>) {}

  /** @throws Problem `too_many_requests` (429), and then it cost nothing */
  pay(
    name: BudgetName,
    { tenantId, subject }: Pick<Principal, 'tenantId' | 'subject'>,
    now = performance.now(),
  ): void {
    const { whose, ...budget } = BUDGETS[name];
    const streams =
      whose === 'tenant' ? 1 : Math.max(LEAST_STREAMS, this.tenants.limits(tenantId).connectionsPerUser);
    const [atOnce, perSecond] = [budget.atOnce * streams, budget.perSecond * streams];
    const key = whose === 'tenant' ? `${name} ${tenantId}` : `${name} ${tenantId} ${subject}`;
    const { calls, at } = this.#spent.get(key) ?? { calls: 0, at: now };
    const left = Math.max(0, calls - ((now - at) * perSecond) / 1_000);
    if (left + 1 > atOnce) {
      throw new Problem(
        'too_many_requests',
        `A ${whose} may ask for ${atOnce} ${name} at once, and for ${perSecond} per second.`,
        { retryAfter: Math.ceil((left + 1 - atOnce) / perSecond) },
      );
    }
    this.#spent.set(key, { calls: left + 1, at: now });
  }
}
