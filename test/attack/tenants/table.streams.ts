import { randomBytes } from 'node:crypto';
import { callersOf } from './callers.ts';
import {
  alice,
  attempt,
  carol,
  FIXED,
  justBefore,
  nobody,
  NOT_FOUND,
  refused,
  type Attempt,
  type Table,
} from './attempt.ts';
import { visit, type Stage } from './stage.ts';

const STREAM = ['devices', 'connections', 'sends', 'acks'];
const TICKET_INVALID = refused(401, 'ticket_invalid');
const DEVICE_UNKNOWN = refused(404, 'device_unknown');
const POSITION_UNKNOWN = refused(400, 'position_unknown');
const NOT_THE_SAME = refused(403, 'subject_mismatch');

const CONFIRMED = { status: 204 };
const resumed = (resume: string) => ({ status: 200, body: { resume } });

/** Ahead of the log of acme, which globex has gone on from. */
const ahead = async ({ globex }: Stage) => (await globex.publish()).position;
/** In the log of the same tenant, and not addressed to the attacker. */
const ofBob = ({ acme }: Stage) => acme.published.bob.position;
const ofAlice = ({ acme }: Stage) => acme.published.alice.position;

const resumes: readonly Attempt[] = [
  attempt({
    what: 'a position of another tenant',
    as: alice,
    foreign: ahead,
    own: { named: ofAlice, answer: resumed('exact') },
    answer: resumed('reset'),
    writes: STREAM,
  }),
  attempt({
    what: 'the position of what another user got',
    as: alice,
    foreign: ofBob,
    unknown: justBefore,
    answer: resumed('exact'),
    writes: STREAM,
  }),
];

const [acmeInTickets, globexInTickets] = ['acme', 'globex'].map((id) =>
  Buffer.from(id).toString('base64url'),
);

/** Another ticket of the same tenant. */
const otherTicket = (ticket: string) => `${ticket.split('.')[0]}.${randomBytes(48).toString('base64url')}`;

/** Each node has seen that it is spent, and need not look again, as with one that nobody made. */
async function spentTicketOfBob({ node, otherNode, acme }: Stage): Promise<string> {
  const ticket = await acme.ticket('bob');
  await visit(node, undefined, { ticket });
  await (await fetch(`${otherNode.url}/v1/stream?ticket=${ticket}`)).text();
  return ticket;
}

export const streaming: Table = {
  'GET /v1/stream': {
    request: () => ({ query: { device: 'phone' } }),
    parameters: {
      'query device': [
        attempt({
          what: 'a device that only another tenant has',
          as: carol,
          foreign: ({ globex }) => globex.only,
          answer: resumed('undelivered'),
          writes: STREAM,
        }),
        attempt({
          what: 'a device of another user',
          as: carol,
          foreign: () => 'bobs',
          answer: resumed('undelivered'),
          writes: STREAM,
        }),
      ],
      'query ticket': [
        attempt({
          what: 'a ticket of another tenant in the name of the own',
          as: nobody,
          foreign: async ({ globex }) => `${acmeInTickets}.${(await globex.ticket('alice')).split('.')[1]}`,
          unknown: otherTicket,
          own: { named: ({ acme }) => acme.ticket('alice'), answer: { status: 200 } },
          answer: TICKET_INVALID,
        }),
        attempt({
          what: 'an own ticket in the name of another tenant',
          as: nobody,
          foreign: async ({ acme }) => `${globexInTickets}.${(await acme.ticket('alice')).split('.')[1]}`,
          unknown: otherTicket,
          answer: TICKET_INVALID,
        }),
        attempt({
          what: 'a ticket that another user has used',
          as: nobody,
          foreign: spentTicketOfBob,
          unknown: otherTicket,
          answer: TICKET_INVALID,
        }),
      ],
      'query from': FIXED,
      'query ack': FIXED,
      'query inbox': FIXED,
      'query lastEventId': resumes,
      'header Last-Event-ID': resumes,
    },
  },
  'POST /v1/acks': {
    request: (stage) => ({ body: { upTo: ofAlice(stage), device: 'phone' } }),
    parameters: {
      'body /upTo': [
        attempt({
          what: 'a position of another tenant',
          as: alice,
          foreign: ahead,
          own: { named: ofAlice, answer: CONFIRMED },
          answer: POSITION_UNKNOWN,
        }),
        attempt({
          what: 'the position of what another user got',
          as: alice,
          foreign: ofBob,
          unknown: justBefore,
          answer: CONFIRMED,
          writes: ['devices', 'acks'],
        }),
      ],
      'body /device': [
        attempt({
          what: 'a device that only another tenant has',
          as: alice,
          foreign: ({ globex }) => globex.only,
          own: { named: () => 'tablet', answer: CONFIRMED },
          answer: DEVICE_UNKNOWN,
        }),
        attempt({
          what: 'a device of another user',
          as: alice,
          foreign: () => 'bobs',
          answer: DEVICE_UNKNOWN,
        }),
      ],
    },
  },
  'POST /v1/stream/renewals': {
    request: ({ acme }, _, token) => ({ body: { connectionId: acme.connections.bob, token } }),
    parameters: {
      'body /connectionId': [
        attempt({
          what: 'a stream of the user of the same name in another tenant',
          as: ({ acme }) => acme.user('bob'),
          foreign: ({ globex }) => globex.connections.bob,
          answer: NOT_FOUND,
        }),
        attempt({
          what: 'a stream of another user',
          as: alice,
          foreign: ({ acme }) => acme.connections.bob,
          answer: NOT_FOUND,
        }),
      ],
      'body /token': [
        attempt({
          what: 'a token of the user of the same name in another tenant',
          as: alice,
          foreign: ({ globex }) => globex.user('alice'),
          unknown: () => callersOf('nowhere').user('alice'),
          answer: NOT_THE_SAME,
        }),
        attempt({
          what: 'a token of another user',
          as: alice,
          foreign: ({ acme }) => acme.user('bob'),
          unknown: () => callersOf('acme').user('nobody'),
          answer: NOT_THE_SAME,
        }),
      ],
    },
  },
  'POST /v1/stream/tickets': {
    request: () => ({ body: {} }),
    parameters: {
      'body /device': [
        attempt({
          what: 'a device that only another tenant has',
          as: alice,
          foreign: ({ globex }) => globex.only,
          answer: { status: 201 },
          writes: ['stream_tickets'],
        }),
        attempt({
          what: 'a device of another user',
          as: alice,
          foreign: () => 'bobs',
          answer: { status: 201 },
          writes: ['stream_tickets'],
        }),
      ],
    },
  },
  'POST /v1/session': 'takes nothing but the token that it puts into the cookie',
  'DELETE /v1/session': 'takes nothing; whose cookie it is does not matter to its removal',
};
