import { ackSchema } from '../../receipts/acknowledgements.ts';
import { renewalSchema, renewedSchema, streamQuerySchema } from '../../delivery/stream.controller.ts';
import { DATABASE_PROBLEMS, type Operation } from '../operation.ts';
import { streamEvents } from '../stream-events.ts';

const EXAMPLE = `retry: 3172
:

event: sync
data: {"connectionId":"019aab3e-0b6f-4d0c-8d5e-52d2f7a3c911","device":"default","resume":"exact","from":"890123456789503","head":"890123456789504","tokenExpiresAt":"2026-11-22T17:00:00.000Z"}

id: 890123456789504
data: {"id":"019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70","type":"order.shipped","to":{"user":"u-42"},"data":{"title":"Your order is on its way"},"createdAt":"2026-11-22T16:00:00.123Z","expiresAt":null}

event: caught-up
id: 890123456789504
data: {"position":"890123456789504"}

`;

export const streamOperations: readonly Operation[] = [
  {
    method: 'get',
    path: '/v1/stream',
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
    access: 'user',
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
  },
  {
    method: 'post',
    path: '/v1/acks',
    id: 'acknowledge',
    tag: 'Stream',
    summary: 'Confirm what a device has received',
    description: `Moves the cursor of the device to \`upTo\` and confirms everything that was addressed to it until
there. Cumulative, never backwards, harmless when repeated. Committed before it is answered.`,
    access: 'user',
    body: {
      schema: ackSchema,
      examples: {
        default: { summary: 'The default device', value: { upTo: '890123456789504' } },
        phone: { summary: 'A device with a name', value: { upTo: '890123456789504', device: 'phone' } },
      },
    },
    answers: [{ status: 204, description: 'Confirmed.' }],
    problems: [
      'position_unknown',
      'device_unknown',
      'too_many_requests',
      'overloaded',
      ...DATABASE_PROBLEMS,
      'keys_unavailable',
    ],
  },
  {
    method: 'post',
    path: '/v1/stream/renewals',
    id: 'renewStream',
    tag: 'Stream',
    summary: 'Keep a stream open with a new token',
    description: `A stream ends with its token; \`expiring\` says so a minute before. With a new token of the same
user and tenant it goes on, without a cut. Topics may be others: those gained begin now, those lost end now. 202 once
it is stored; the node that holds the stream applies it within a second.`,
    access: 'user',
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
      {
        status: 202,
        description: 'The renewal is stored.',
        content: [
          {
            mediaType: 'application/json',
            schema: renewedSchema,
            examples: {
              default: {
                summary: 'The new end',
                value: { tokenExpiresAt: '2026-11-22T18:00:00.000Z' },
              },
            },
          },
        ],
      },
    ],
    problems: [
      'not_found',
      'subject_mismatch',
      'too_many_requests',
      'being_erased',
      ...DATABASE_PROBLEMS,
      'keys_unavailable',
    ],
  },
];
