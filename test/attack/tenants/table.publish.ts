import { randomUUID } from 'node:crypto';
import type { ParameterKey } from '../document.ts';
import { attempt, billing, LABEL, NUMBER, refused, shop, TIME, type Attempt, type Table } from './attempt.ts';
import { ORDER, type Tenant } from './stage.ts';

const STORED = { status: 201 };
const LOG = ['notifications', 'tenant_logs'];
const LOG_AND_KEYS = [...LOG, 'idempotency_keys'];

/** A key under which this publisher has just stored the same. */
async function usedKey(tenant: Tenant): Promise<string> {
  const key = randomUUID();
  await tenant.publish({ 'idempotency-key': key });
  return key;
}

/* A key that counted would be answered with `Idempotency-Replayed`, or 422: an unknown one is not. */
const keys = (own: NonNullable<Attempt['own']>): readonly Attempt[] => [
  attempt({
    what: 'a key that the same publisher of another tenant used',
    as: billing,
    foreign: ({ globex }) => usedKey(globex),
    own,
    answer: STORED,
    writes: LOG_AND_KEYS,
  }),
  attempt({
    what: 'a key that another publisher used',
    as: shop,
    foreign: ({ acme }) => usedKey(acme),
    answer: STORED,
    writes: LOG_AND_KEYS,
  }),
];

/* Nobody of another tenant is reached: its rows do not change, and at the end its streams have got nothing. */
const recipient = (what: string): readonly Attempt[] => [
  attempt({
    what: `a ${what} that only another tenant has`,
    as: billing,
    foreign: ({ globex }) => globex.only,
    answer: STORED,
    writes: LOG,
  }),
];

const notification = (at: '' | '/notifications/*') =>
  ({
    [`body ${at}/to/user`]: recipient('user'),
    [`body ${at}/to/users/*`]: recipient('user'),
    [`body ${at}/to/topic`]: recipient('topic'),
    [`body ${at}/to/everyone`]: 'is `true`, and means everyone of the tenant of the token',
    [`body ${at}/type`]: LABEL,
    [`body ${at}/data`]: LABEL,
    [`body ${at}/expiresAt`]: TIME,
    [`body ${at}/ttlSeconds`]: NUMBER,
    [`body ${at}/inbox`]: 'is `true` or `false`, and names nothing',
  }) as const;

const TRACE = 'is kept and logged; nothing is looked up by it';

/** Only one recipient can be named. */
const noteFor = (parameter: ParameterKey) => (parameter.includes('/to/') ? { ...ORDER, to: {} } : ORDER);

export const publishing: Table = {
  'POST /v1/notifications': {
    request: (_, parameter) => ({ body: noteFor(parameter) }),
    parameters: {
      'header Idempotency-Key': keys({
        named: ({ acme }) => usedKey(acme),
        answer: { status: 201, headers: { 'idempotency-replayed': 'true' } },
      }),
      'header traceparent': TRACE,
      ...notification(''),
    },
  },
  'POST /v1/notifications/batch': {
    request: (_, parameter) => ({ body: { notifications: [noteFor(parameter)] } }),
    parameters: {
      'header Idempotency-Key': keys({
        named: ({ acme }) => usedKey(acme),
        answer: refused(422, 'idempotency_mismatch'),
      }),
      'header traceparent': TRACE,
      ...notification('/notifications/*'),
    },
  },
};
