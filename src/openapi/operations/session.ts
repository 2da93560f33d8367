import { sessionSchema } from '../../auth/session.controller.ts';
import { ticketRequestSchema, ticketSchema } from '../../delivery/stream.controller.ts';
import { DATABASE_PROBLEMS, type Operation } from '../operation.ts';

/** Other ways than a header to say who is calling. */
export const sessionOperations: readonly Operation[] = [
  {
    method: 'post',
    path: '/v1/session',
    id: 'beginSession',
    tag: 'Stream',
    summary: 'Put the token into a cookie',
    description: `Sets \`__Host-tidings\` to the bearer token of this request, until that token ends: \`HttpOnly\`, \`Secure\`,
\`SameSite\` as \`COOKIE_SAME_SITE\` says. From then on the browser sends it by itself, also with an \`EventSource\`. It does
for routes of users, and only from pages of this host or of an origin that the tenant allows.

A token that makes a cookie of more than 4096 bytes is refused, since browsers would not keep it.`,
    access: 'user',
    body: {
      schema: sessionSchema,
      required: false,
      examples: { default: { summary: 'Nothing', value: {} } },
    },
    answers: [{ status: 204, description: 'The cookie is set.', headers: ['Set-Cookie'] }],
    problems: ['keys_unavailable'],
  },
  {
    method: 'delete',
    path: '/v1/session',
    id: 'endSession',
    tag: 'Stream',
    summary: 'Remove the cookie',
    description: `Also when the token in it has ended. Streams that are open stay open until their token ends; to end
them at once, revoke the token.`,
    access: 'public',
    answers: [{ status: 204, description: 'The cookie is removed.', headers: ['Set-Cookie'] }],
    problems: ['validation_failed', 'origin_refused'],
  },
  {
    method: 'post',
    path: '/v1/stream/tickets',
    id: 'issueTicket',
    tag: 'Stream',
    summary: 'Get a ticket for one stream',
    description: `For an \`EventSource\`, which cannot send the token in a header: \`GET /v1/stream?ticket=…\`. The ticket opens
one stream of this user on this device, within 30 seconds, and with the topics and the end of
this token. When that stream is lost, fetch a new ticket and open the next one with it and \`lastEventId\`.`,
    access: 'user',
    body: {
      schema: ticketRequestSchema,
      required: false,
      examples: {
        default: { summary: 'The default device', value: {} },
        phone: { summary: 'A device with a name', value: { device: 'phone' } },
      },
    },
    answers: [
      {
        status: 201,
        description: 'The ticket.',
        content: [
          {
            mediaType: 'application/json',
            schema: ticketSchema,
            examples: {
              default: {
                summary: 'A ticket',
                value: {
                  ticket: 'YWNtZQ.La91E8Uti2qCxBm_O3fjCoMv7ubwXIUPAZq7xKQwN1c9Tg0uV5b2hJrXyE8sLfWd',
                  expiresAt: '2026-11-22T16:00:30.000Z',
                },
              },
            },
          },
        ],
      },
    ],
    problems: ['too_many_requests', 'being_erased', 'overloaded', ...DATABASE_PROBLEMS, 'keys_unavailable'],
  },
];
