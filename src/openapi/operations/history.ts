import { z } from 'zod';
import { connectionsQuerySchema, historyQuerySchema, pageQuerySchema } from '../../history/page.ts';
import {
  connectionsPageSchema,
  devicesPageSchema,
  historyItemSchema,
  historyPageSchema,
  timelinePageSchema,
} from '../history.schema.ts';
import { DATABASE_PROBLEMS, type Answer, type Operation } from '../operation.ts';

const receipt = {
  user: 'u-42',
  device: 'phone',
  sends: 1,
  firstSentAt: '2026-11-22T16:00:00.125Z',
  lastSentAt: '2026-11-22T16:00:00.125Z',
  deliveredAt: '2026-11-22T16:00:04.870Z',
};

const item = {
  id: '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70',
  position: '890123456789504',
  type: 'order.shipped',
  to: { user: 'u-42' },
  data: { title: 'Your order is on its way', order: 4711 },
  publisher: 'billing',
  createdAt: '2026-11-22T16:00:00.123Z',
  expiresAt: null,
  status: 'delivered',
  devices: [receipt],
};

const { devices: _, ...rest } = item;
const broadcast = {
  ...rest,
  to: { everyone: true },
  status: 'sent',
  counts: { sent: 812, delivered: 0, more: false },
};

const connection = {
  connectionId: '019aab3e-0b6f-4d0c-8d5e-52d2f7a3c911',
  user: 'u-42',
  device: 'phone',
  node: 'node-1',
  since: '2026-11-22T15:58:12.004Z',
  until: null,
  position: '890123456789000',
  reason: null,
  topics: ['team:blue'],
};

const timeline = {
  items: [
    { event: 'accepted', at: item.createdAt, publisher: 'billing' },
    {
      event: 'sent',
      at: receipt.firstSentAt,
      user: 'u-42',
      device: 'phone',
      connectionId: connection.connectionId,
      node: 'node-1',
    },
    { event: 'delivered', at: receipt.deliveredAt, user: 'u-42', device: 'phone', by: 'ack' },
  ],
  nextCursor: null,
  more: false,
};

const page = (schema: z.ZodType, summary: string, value: unknown): Answer => ({
  status: 200,
  description: 'One page.',
  content: [{ mediaType: 'application/json', schema, examples: { page: { summary, value } } }],
});

const pathParameters = z.object({
  id: z.uuid().meta({ description: 'The id that the publish was answered with.' }),
});

const UNAVAILABLE = [...DATABASE_PROBLEMS, 'keys_unavailable'] as const;

const OWN = 'A publisher sees what it published itself; what belongs to others is 404.';

export const historyOperations: readonly Operation[] = [
  {
    method: 'get',
    path: '/v1/notifications',
    id: 'listNotifications',
    tag: 'History',
    summary: 'What was published, and what became of it',
    description: `Newest first. \`user\` and \`topic\` find what was addressed to exactly that id.

\`Accept: application/x-ndjson\` streams the whole selection, one item a line.`,
    access: ['history:read'],
    query: historyQuerySchema,
    answers: [
      {
        status: 200,
        description: 'One page, or the whole selection as lines.',
        content: [
          {
            mediaType: 'application/json',
            schema: historyPageSchema,
            examples: {
              page: { summary: 'A page', value: { items: [item, broadcast], nextCursor: 'WyJxIiw4OTBd' } },
            },
          },
          {
            mediaType: 'application/x-ndjson',
            text: `${JSON.stringify(item)}\n${JSON.stringify(broadcast)}\n`,
          },
        ],
      },
    ],
    problems: ['draining', ...UNAVAILABLE],
  },
  {
    method: 'get',
    path: '/v1/notifications/{id}',
    id: 'getNotification',
    tag: 'History',
    summary: 'One notification, and what became of it',
    description: OWN,
    access: ['history:read', 'notifications:publish'],
    pathParameters,
    answers: [
      {
        status: 200,
        description: 'The notification.',
        content: [
          {
            mediaType: 'application/json',
            schema: historyItemSchema,
            examples: {
              user: { summary: 'To a user', value: item },
              everyone: { summary: 'To everyone', value: broadcast },
            },
          },
        ],
      },
    ],
    problems: ['not_found', ...UNAVAILABLE],
  },
  {
    method: 'get',
    path: '/v1/notifications/{id}/devices',
    id: 'listDevices',
    tag: 'History',
    summary: 'The devices that a notification reached',
    description: `Every device that it was written to or that confirmed it, by user and device. ${OWN}`,
    access: ['history:read', 'notifications:publish'],
    pathParameters,
    query: pageQuerySchema,
    answers: [page(devicesPageSchema, 'A page', { items: [receipt], nextCursor: null })],
    problems: ['not_found', ...UNAVAILABLE],
  },
  {
    method: 'get',
    path: '/v1/notifications/{id}/timeline',
    id: 'getTimeline',
    tag: 'History',
    summary: 'What happened to a notification, in order',
    description: `\`accepted\`, \`sent\` or \`replayed\` for each device, connection and node, \`delivered\` for each
device, \`expired\`. ${OWN}`,
    access: ['history:read', 'notifications:publish'],
    pathParameters,
    query: pageQuerySchema,
    answers: [page(timelinePageSchema, 'From the publish to the confirmation', timeline)],
    problems: ['not_found', ...UNAVAILABLE],
  },
  {
    method: 'get',
    path: '/v1/connections',
    id: 'listConnections',
    tag: 'History',
    summary: 'Who is connected, and who was',
    description:
      'Without `since` and `until` the streams that are open now, else those that were open at some time between.',
    access: ['history:read'],
    query: connectionsQuerySchema,
    answers: [
      page(connectionsPageSchema, 'One user, connected now', { items: [connection], nextCursor: null }),
    ],
    problems: [...UNAVAILABLE],
  },
];
