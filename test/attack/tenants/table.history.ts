import { expect } from '@jest/globals';
import {
  attempt,
  billing,
  cursor,
  FIXED,
  NOT_FOUND,
  NOTHING,
  NUMBER,
  operator,
  shop,
  TIME,
  type Attempt,
  type Entry,
  type Table,
} from './attempt.ts';
import type { Tenant } from './stage.ts';

const FOUND = { status: 200 };

const NOTIFICATION: readonly Attempt[] = [
  attempt({
    what: 'a notification of another tenant, as an operator',
    as: operator,
    foreign: ({ globex }) => globex.published.alice.id,
    own: { named: ({ acme }) => acme.published.alice.id, answer: FOUND },
    answer: NOT_FOUND,
  }),
  attempt({
    what: 'a notification of the publisher of the same name in another tenant',
    as: billing,
    foreign: ({ globex }) => globex.published.everyone.id,
    own: { named: ({ acme }) => acme.published.everyone.id, answer: FOUND },
    answer: NOT_FOUND,
  }),
  attempt({
    what: 'a notification of another publisher',
    as: shop,
    foreign: ({ acme }) => acme.published.alice.id,
    own: { named: ({ acme }) => acme.published.bob.id, answer: FOUND },
    answer: NOT_FOUND,
  }),
];

/** A filter, by what only one tenant has. */
const filter = (what: string, named: (tenant: Tenant) => string): readonly Attempt[] => [
  attempt({
    what: `a ${what} that only another tenant has`,
    as: operator,
    foreign: ({ globex }) => named(globex),
    own: {
      named: ({ acme }) => named(acme),
      answer: { status: 200, body: { items: expect.arrayContaining([expect.anything()]) } },
    },
    answer: NOTHING,
  }),
];

/** A question about one notification. */
const about = (part: 'devices' | 'timeline'): Entry => {
  const path = ({ published }: Tenant) => `/v1/notifications/${published.everyone.id}/${part}`;
  return {
    request: ({ acme }) => ({ path: { id: acme.published.everyone.id } }),
    parameters: {
      'path id': NOTIFICATION,
      'query limit': NUMBER,
      'query cursor': cursor(operator, path),
    },
  };
};

export const history: Table = {
  'GET /v1/notifications': {
    request: () => ({}),
    parameters: {
      'query user': filter('user', ({ past }) => past),
      'query topic': filter('topic', ({ past }) => past),
      'query type': filter('type', ({ past }) => past),
      'query status': FIXED,
      'query since': TIME,
      'query until': TIME,
      'query limit': NUMBER,
      'query cursor': cursor(operator, () => '/v1/notifications'),
    },
  },
  'GET /v1/notifications/{id}': {
    request: ({ acme }) => ({ path: { id: acme.published.alice.id } }),
    parameters: { 'path id': NOTIFICATION },
  },
  'GET /v1/notifications/{id}/devices': about('devices'),
  'GET /v1/notifications/{id}/timeline': about('timeline'),
  'GET /v1/connections': {
    request: () => ({}),
    parameters: {
      'query user': filter('user', ({ only }) => only),
      'query since': TIME,
      'query until': TIME,
      'query limit': NUMBER,
      'query cursor': cursor(operator, () => '/v1/connections'),
    },
  },
};
