import { z } from 'zod';
import { deviceIdSchema, tenantIdSchema, typeSchema, userIdSchema } from '../core/identifiers.ts';
import { recipientSchema } from '../core/notification.ts';
import { DATABASE_PROBLEMS, type Description, json } from '../http/description.ts';

/* What stands in the `data:` of each event (frames.ts writes them by hand, for speed; a test holds the two together). */

const position = z
  .string()
  .regex(/^\d{1,16}$/)
  .meta({ description: 'An opaque decimal string; the `id:` of an event.' });
const time = z.iso.datetime();

const notification = z
  .strictObject({
    id: z.uuid(),
    type: typeSchema,
    to: recipientSchema.meta({ description: 'Whom it was addressed to.' }),
    data: z.json().meta({ description: 'As it was published.' }),
    createdAt: time,
    expiresAt: time.nullable(),
    inbox: z
      .literal(false)
      .optional()
      .meta({ description: 'Only if it is a signal for the app, which no inbox shows.' }),
  })
  .meta({
    id: 'StreamNotification',
    description: 'A notification. Its event has no name, so `onmessage` gets it.',
  });

const sync = z
  .strictObject({
    connectionId: z.uuid(),
    user: userIdSchema.meta({ description: 'Whose stream it is, by the token.' }),
    tenant: tenantIdSchema,
    device: deviceIdSchema,
    resume: z.enum(['exact', 'undelivered', 'latest', 'earliest', 'gap', 'reset']).meta({
      description:
        '`gap`: older than what is kept, `oldest` says where it continues. `reset`: the position was malformed or ahead of the log and counts as absent.',
    }),
    from: position,
    head: position,
    oldest: position.optional(),
    tokenExpiresAt: time,
    heartbeatSeconds: z.number().int().positive().meta({
      description:
        'A heartbeat comes after so long without a notification. After three times as long without a byte the connection counts as dead.',
    }),
    features: z.array(z.string()).meta({
      description:
        'Names of what this service offers on the stream beyond the first version of the protocol. None so far. Ignore names that you do not know.',
    }),
  })
  .meta({ id: 'SyncEvent', description: 'The first event: where this stream reads on.' });

const bye = z
  .strictObject({
    reason: z.enum(['token-expired', 'revoked', 'shutdown', 'replaced', 'over-limit', 'unavailable']),
    reconnect: z.boolean().meta({ description: 'Whether to come back without being asked to.' }),
    retryAfterMs: z.number().int().nonnegative(),
  })
  .meta({ id: 'ByeEvent', description: 'The last event before the service ends the stream.' });

/** By the name of the event; `message` is what an event without a name is called in browsers. */
export const streamEvents = {
  message: notification,
  sync,
  'caught-up': z
    .strictObject({ position })
    .meta({ id: 'CaughtUpEvent', description: 'The backlog is over; what follows is live.' }),
  position: z
    .strictObject({ position })
    .meta({ id: 'PositionEvent', description: 'The log moved on and nothing of it was for this stream.' }),
  gap: z
    .strictObject({ from: position, oldest: position })
    .meta({ id: 'GapEvent', description: 'Retention took away what was between `from` and `oldest`.' }),
  expiring: z
    .strictObject({ at: time })
    .meta({ id: 'ExpiringEvent', description: 'The token is about to expire.' }),
  bye,
};

/**
 * The query of GET /v1/stream. Nothing in it says whose stream it is: that is in the token. What is not known is left out, and
 * not refused as on all other routes: a client that adds a number against caches would give up for ever.
 */
export const streamQuerySchema = z
  .object({
    device: deviceIdSchema.optional().meta({
      description:
        "Which of the user's devices this is; `default` if absent. A `device` claim in the token wins.",
    }),
    ticket: z.string().optional().meta({
      description:
        'From `POST /v1/stream/tickets`, in place of a token. It opens one stream; its device is that of the ticket.',
    }),
    from: z
      .enum(['undelivered', 'latest', 'earliest'])
      .default('undelivered')
      .meta({ description: 'Where to start without a position.' }),
    ack: z
      .enum(['explicit', 'auto'])
      .default('explicit')
      .meta({ description: '`auto`: the cursor follows what was written, and nothing becomes `delivered`.' }),
    inbox: z
      .enum(['1'])
      .optional()
      .meta({ description: '`1`: an event `inbox` tells the numbers of the inbox, whenever they change.' }),
    // Any text: a bad position is never a 4xx, which would make an EventSource give up for ever. A client that
    // adds it to a URL that has one means the last.
    lastEventId: z
      .preprocess((sent: unknown) => (Array.isArray(sent) ? sent.at(-1) : sent), z.string().optional())
      .meta({
        description:
          'The last id that was seen, for a reloaded page, which cannot set `Last-Event-ID`. The header wins; of several the last one counts.',
      }),
  })
  .meta({ id: 'StreamQuery' });

const EXAMPLE = `retry: 3172
:

event: sync
data: {"connectionId":"019aab3e-0b6f-4d0c-8d5e-52d2f7a3c911","user":"u-42","tenant":"acme","device":"default","resume":"exact","from":"890123456789503","head":"890123456789504","tokenExpiresAt":"2026-11-22T17:00:00.000Z","heartbeatSeconds":15,"features":["inbox"]}

id: 890123456789504
data: {"id":"019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70","type":"order.shipped","to":{"user":"u-42"},"data":{"title":"Your order is on its way"},"createdAt":"2026-11-22T16:00:00.123Z","expiresAt":null}

event: caught-up
id: 890123456789504
data: {"position":"890123456789504"}

id: 890123456789505
data: {"id":"019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b71","type":"cart.changed","to":{"user":"u-42"},"data":{"items":3},"createdAt":"2026-11-22T16:00:00.123Z","expiresAt":null,"inbox":false}

`;

export const openStreamDescription: Description = {
  id: 'openStream',
  tag: 'Stream',
  summary: 'Receive notifications',
  description: `Server-Sent Events as WHATWG HTML defines them. First what was missed, then \`caught-up\`, then each
notification as it is committed: in order, without duplicates. A notification has no \`event:\` field, and its \`id:\`
is its position; everything else has a name.

| event | meaning |
| --- | --- |
| (none) | a notification |
| \`sync\` | comes first; says where the stream reads on |
| \`caught-up\` | the backlog is over |
| \`position\` | the log moved on without this stream; moves the last event id |
| \`gap\` | retention took away what was not read yet |
| \`expiring\` | the token ends soon |
| \`bye\` | the service ends the stream, and says why |

The stream resumes after \`Last-Event-ID\`, else \`lastEventId\`, else as \`from\` says: \`undelivered\` is what this
device has not confirmed. A comment every 15 seconds keeps proxies from closing the connection. It ends when its token
does.

What will pass (too many streams, a shutdown, a database that is away) is answered 200 with \`bye\`, because any other
status makes a browser's \`EventSource\` give up for ever.`,
  query: streamQuerySchema,
  headers: ['Last-Event-ID'],
  answers: [
    {
      status: 200,
      description: 'The stream. `x-events` holds the schema of the data of each event.',
      content: [{ mediaType: 'text/event-stream', text: EXAMPLE, events: streamEvents }],
    },
  ],
  problems: ['ticket_invalid'],
};

/** The body of POST /v1/stream/renewals. */
export const renewalSchema = z
  .strictObject({
    connectionId: z.uuid().meta({ description: 'From the `sync` event of the stream.' }),
    token: z
      .string()
      .regex(/^[A-Za-z0-9\-._~+/]{1,8192}=*$/, 'is not a token')
      .meta({ description: 'A new token of the same user and tenant.' }),
  })
  .meta({ id: 'Renewal' });

/** The answer: until when the stream may stay open. */
const renewedSchema = z.object({ tokenExpiresAt: z.iso.datetime() }).meta({ id: 'Renewed' });

export const renewStreamDescription: Description = {
  id: 'renewStream',
  tag: 'Stream',
  summary: 'Keep a stream open with a new token',
  description: `A stream ends with its token; \`expiring\` says so a minute before. With a new token of the same
user and tenant it goes on, without a cut. Topics may be others: those gained begin now, those lost end now. 202 once
it is stored; the node that holds the stream applies it within a second.`,
  body: {
    schema: renewalSchema,
    examples: {
      default: {
        summary: 'The id is from `sync`',
        value: {
          connectionId: '019aab3e-0b6f-4d0c-8d5e-52d2f7a3c911',
          token: 'eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ1LTQyIn0.c2lnbmF0dXJl',
        },
      },
    },
  },
  answers: [
    json(202, 'The renewal is stored.', renewedSchema, {
      default: {
        summary: 'The new end',
        value: { tokenExpiresAt: '2026-11-22T18:00:00.000Z' },
      },
    }),
  ],
  problems: [
    'not_found',
    'subject_mismatch',
    'too_many_requests',
    'being_erased',
    ...DATABASE_PROBLEMS,
    'keys_unavailable',
  ],
};

/** The body of a request for a ticket; it may be left out. */
export const ticketRequestSchema = z
  .strictObject({
    device: deviceIdSchema.optional().meta({
      description:
        'The device whose stream the ticket opens. Default: `default`. The `device` claim of the token wins.',
    }),
  })
  .meta({ id: 'TicketRequest' });

const ticketSchema = z
  .object({
    ticket: z.string().meta({ description: 'For the query of one `GET /v1/stream`. Opaque.' }),
    expiresAt: z.iso.datetime({ precision: 3 }).meta({ description: 'From then on it opens nothing.' }),
  })
  .meta({ id: 'Ticket' });

export type Ticket = z.infer<typeof ticketSchema>;

export const issueTicketDescription: Description = {
  id: 'issueTicket',
  tag: 'Stream',
  summary: 'Get a ticket for one stream',
  description: `For an \`EventSource\`, which cannot send the token in a header: \`GET /v1/stream?ticket=…\`. The ticket opens
one stream of this user on this device, within 30 seconds, and with the topics and the end of
this token. When that stream is lost, fetch a new ticket and open the next one with it and \`lastEventId\`.`,
  body: {
    schema: ticketRequestSchema,
    required: false,
    examples: {
      default: { summary: 'The default device', value: {} },
      phone: { summary: 'A device with a name', value: { device: 'phone' } },
    },
  },
  answers: [
    json(201, 'The ticket.', ticketSchema, {
      default: {
        summary: 'A ticket',
        value: {
          ticket: 'YWNtZQ.La91E8Uti2qCxBm_O3fjCoMv7ubwXIUPAZq7xKQwN1c9Tg0uV5b2hJrXyE8sLfWd',
          expiresAt: '2026-11-22T16:00:30.000Z',
        },
      },
    }),
  ],
  problems: ['too_many_requests', 'being_erased', 'overloaded', ...DATABASE_PROBLEMS, 'keys_unavailable'],
};
