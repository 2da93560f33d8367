import { z } from 'zod';
import { COMMON, WITH_ID, userQuerySchema } from '../admin/route-parts.ts';
import { tenantIdSchema, userIdSchema } from '../core/identifiers.ts';
import { historyItemSchema } from '../history/history.openapi.ts';
import { json, type Answer, type Description } from '../http/description.ts';
import { erasureSchema } from './erasure.ts';
import { exportLineSchemas } from './export.store.ts';

const ofUser = z.object({ id: userIdSchema });

const erasure = {
  id: '019aab3f-5d2e-4a11-b0c7-6e1f8a93d240',
  status: 'erasing',
  createdAt: '2026-11-22T16:00:50.004Z',
  doneAt: null,
  erased: { devices: 2, connections: 311, sent: 1_204, acknowledgements: 198, notifications: 42_000 },
};

const GONE: Answer = { status: 204, description: 'Nothing of it is left, on no node.' };
const UNDER_WAY: Answer = {
  ...json(202, 'It is stored and goes on.', erasureSchema, {
    erasure: { summary: 'Under way', value: erasure },
  }),
  headers: ['Location'],
};

const LINES = [
  {
    kind: 'notification',
    id: '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70',
    position: '890123456789504',
    type: 'order.shipped',
    to: { user: 'u-42' },
    data: { title: 'Your order is on its way' },
    publisher: 'billing',
    createdAt: '2026-11-22T16:00:00.123Z',
    expiresAt: null,
    status: 'queued',
    readAt: null,
    devices: [],
  },
  {
    kind: 'device',
    device: 'phone',
    cursor: '890123456789000',
    topics: [],
    lastSeenAt: '2026-11-22T15:58:12.004Z',
  },
  {
    kind: 'engagement',
    engagement: 'read',
    of: 'all',
    from: '890123456789000',
    to: '890123456789504',
    at: '2026-11-22T16:00:09.310Z',
    topics: [],
  },
];

export const exportUserDataDescription: Description = {
  id: 'exportUserData',
  tag: 'Privacy',
  summary: 'Everything that is stored of a user',
  description: `One JSON object a line, with \`kind\`: \`notification\` (as in history), \`connection\`, \`device\`, \`sent\`,
\`acknowledgement\`, \`inbox\`, \`mark\`, \`engagement\` (what the user saw, read or archived, and when), \`answer\` (to an idempotency key), \`ticket\`, \`order\`, \`revocation\`. Read page by page: what changes
meanwhile may be in it or not. A response that ends without its last chunk is incomplete.`,
  pathParameters: ofUser,
  byQuery: userQuerySchema,
  answers: [
    {
      status: 200,
      description: 'The lines. None: nothing is stored.',
      content: [
        {
          mediaType: 'application/x-ndjson',
          text: LINES.map((line) => `${JSON.stringify(line)}\n`).join(''),
          lines: { notification: historyItemSchema, ...exportLineSchemas },
        },
      ],
    },
  ],
  problems: ['draining', ...WITH_ID.problems],
};

export const eraseUserDataDescription: Description = {
  id: 'eraseUserData',
  tag: 'Privacy',
  summary: 'Erase everything that is stored of a user',
  description: `Ends the streams of the user with \`bye\` \`revoked\`, empties the memory of every node, and deletes what was addressed to
the user, devices with their cursors, what was sent and confirmed, connections, tickets and orders. The ids of these
notifications are taken out of the answers to idempotency keys. Broadcasts stay. Meanwhile the user gets no stream.

The tokens stay good: whoever comes back begins as a new user. What is published after this answer is kept. May be repeated.

204 when all of it is gone; 202 when that takes longer than some seconds: it goes on, whatever becomes of this node, and
\`Location\` tells how far it is. The audit log tells who ordered it, and what is gone.`,
  pathParameters: ofUser,
  byQuery: userQuerySchema,
  answers: [GONE, UNDER_WAY],
  problems: [...WITH_ID.problems, 'too_many_requests'],
};

export const getErasureDescription: Description = {
  id: 'getErasure',
  tag: 'Privacy',
  summary: 'How far an erasure is',
  description: 'For a day after its end.',
  pathParameters: z.object({ id: z.uuid() }),
  answers: [
    json(200, 'The erasure.', erasureSchema, {
      running: { summary: 'Under way', value: erasure },
      done: {
        summary: 'Done',
        value: { ...erasure, status: 'done', doneAt: '2026-11-22T16:01:04.911Z' },
      },
    }),
  ],
  problems: WITH_ID.problems,
};

export const deleteTenantDescription: Description = {
  ...COMMON,
  id: 'deleteTenant',
  summary: 'Delete a tenant with all that it has',
  description: `Its requests are refused (403 \`tenant_unknown\`) and its streams end with \`bye\` \`revoked\` as soon as this is stored.
Then every row of it goes, but for the audit log and its own, which says \`deleted\` and keeps a token that is still good
from making it anew. \`POST /v1/tenants\` does. May be repeated.

204 when all of it is gone; 202 when that takes longer than some seconds: it goes on, whatever becomes of this node, and
\`Location\` shows the tenant, first \`deleting\`, then \`deleted\`.`,
  pathParameters: z.object({ id: tenantIdSchema }),
  answers: [GONE, UNDER_WAY],
  problems: WITH_ID.problems,
};
