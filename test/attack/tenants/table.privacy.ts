import { alice, attempt, NO_SCOPE, NOT_FOUND, operator, type Table } from './attempt.ts';
import { aboveTenants } from './table.admin.ts';

/** Of the user that only the other tenant has; nothing of that name is here, and the same is said of anybody. */
const ofOnly = (answer: { status: number }, writes: readonly string[] = []) =>
  attempt({
    what: 'a user that only another tenant has',
    as: operator,
    foreign: ({ globex }) => globex.past,
    answer,
    writes,
  });

const asUser = attempt({
  what: 'another user, as a user',
  as: alice,
  foreign: () => 'bob',
  answer: NO_SCOPE,
});

/** What is shown of a user or a tenant, and taken away. */
export const privacy: Table = {
  'GET /v1/users/{id}/data': {
    request: () => ({ path: { id: 'nobody' } }),
    parameters: { 'path id': [ofOnly({ status: 200 }), asUser] },
  },
  'DELETE /v1/users/{id}/data': {
    request: () => ({ path: { id: 'nobody' } }),
    parameters: { 'path id': [ofOnly({ status: 204 }, ['erasures', 'audit_log']), asUser] },
  },
  'GET /v1/users/data': {
    request: () => ({ query: { user: 'nobody' } }),
    parameters: { 'query user': [ofOnly({ status: 200 }), asUser] },
  },
  'DELETE /v1/users/data': {
    request: () => ({ query: { user: 'nobody' } }),
    parameters: { 'query user': [ofOnly({ status: 204 }, ['erasures', 'audit_log']), asUser] },
  },
  'GET /v1/erasures/{id}': {
    request: ({ acme }) => ({ path: { id: acme.erasure } }),
    parameters: {
      'path id': [
        attempt({
          what: 'an erasure of another tenant',
          as: operator,
          foreign: ({ globex }) => globex.erasure,
          own: { named: ({ acme }) => acme.erasure, answer: { status: 200 } },
          answer: NOT_FOUND,
        }),
      ],
    },
  },
  'DELETE /v1/tenants/{id}': {
    // Again and again: it is gone after the first time.
    request: () => ({ path: { id: 'doomed' } }),
    parameters: { 'path id': aboveTenants('another tenant', ({ globex }) => globex.id) },
  },
};
