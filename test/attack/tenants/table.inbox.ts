import { expect } from '@jest/globals';
import { alice, attempt, cursor, FIXED, NOTHING, NUMBER, refused, type Table } from './attempt.ts';
import type { Stage } from './stage.ts';

const POSITION_UNKNOWN = refused(400, 'position_unknown');
const MARKED = { status: 200, body: { unknown: [] } };

/** Ahead of the log of acme, which globex has gone on from. */
const ahead = async ({ globex }: Stage) => (await globex.publish()).position;

const position = [
  attempt({ what: 'a position of another tenant', as: alice, foreign: ahead, answer: POSITION_UNKNOWN }),
];
const YES_OR_NO = 'is true or false';

export const inbox: Table = {
  'GET /v1/inbox': {
    request: () => ({}),
    parameters: {
      'query filter': FIXED,
      'query type': [
        attempt({
          what: 'a type that only another tenant has',
          as: alice,
          foreign: ({ globex }) => globex.past,
          answer: NOTHING,
        }),
      ],
      'query limit': NUMBER,
      'query cursor': cursor(alice, () => '/v1/inbox'),
    },
  },
  'GET /v1/inbox/counts': 'takes nothing, and counts for the user of the token',
  'POST /v1/inbox/marks': {
    request: ({ acme }, parameter) => ({
      body: parameter.startsWith('body /items')
        ? { items: [{ id: acme.published.alice.id, read: true }] }
        : {},
    }),
    parameters: {
      'body /seenUpTo': position,
      'body /readUpTo': position,
      'body /archivedUpTo': position,
      'body /revision': 'is compared with revisions of the own inbox alone',
      'body /items/*/id': [
        attempt({
          what: 'a notification of the user of the same name in another tenant',
          as: alice,
          foreign: ({ globex }) => globex.published.alice.id,
          own: { named: ({ acme }) => acme.published.alice.id, answer: MARKED },
          answer: { status: 200, body: { unknown: [expect.any(String)] } },
        }),
        attempt({
          what: 'a notification of another user',
          as: alice,
          foreign: ({ acme }) => acme.published.bob.id,
          answer: { status: 200, body: { unknown: [expect.any(String)] } },
        }),
      ],
      'body /items/*/read': YES_OR_NO,
      'body /items/*/archived': YES_OR_NO,
    },
  },
};
