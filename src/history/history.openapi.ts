import { z } from 'zod';
import { deviceIdSchema, topicSchema, typeSchema, userIdSchema } from '../core/identifiers.ts';
import { recipientSchema } from '../core/notification.ts';
import { positionSchema } from '../core/position.ts';
import { DATABASE_PROBLEMS, json, type Answer, type Description } from '../http/description.ts';
import { ENGAGEMENTS, STATUSES } from './delivery-status.ts';
import { pageParameters, pageQuerySchema, scannedCursorSchema, timeParameter } from '../http/pages.ts';

/* What the routes of history are asked. */

export const historyQuerySchema = z.strictObject({
  user: userIdSchema.optional().meta({ description: 'Addressed to this user id.' }),
  topic: topicSchema.optional().meta({ description: 'Addressed to this topic.' }),
  type: typeSchema.optional(),
  status: z.enum(STATUSES).optional(),
  since: timeParameter('Accepted at or after this time.'),
  until: timeParameter('Accepted before this time.'),
  ...pageParameters,
});

export const connectionsQuerySchema = z.strictObject({
  user: userIdSchema.optional(),
  since: timeParameter('Connected at or after this time; without `since` and `until`: connected now.'),
  until: timeParameter('Connected before this time.'),
  ...pageParameters,
});

export type HistoryQuery = z.infer<typeof historyQuerySchema>;

/* What the routes of history answer. Items are put together by hand around `data`; a test holds the two together. */

const time = z.iso.datetime();

const receiptSchema = z
  .strictObject({
    user: userIdSchema,
    device: deviceIdSchema,
    sends: z
      .number()
      .int()
      .nonnegative()
      .meta({ description: 'How often it was written to a socket of this device.' }),
    firstSentAt: time.nullable(),
    lastSentAt: time.nullable(),
    deliveredAt: time.nullable().meta({ description: 'When the device confirmed it.' }),
  })
  .meta({ id: 'Receipt', description: 'What one device has of one notification.' });

export const historyItemSchema = z
  .strictObject({
    id: z.uuid(),
    position: positionSchema,
    type: typeSchema,
    to: recipientSchema,
    data: z.json().meta({ description: 'As it was published.' }),
    publisher: userIdSchema.meta({ description: '`sub` of the token that published it.' }),
    createdAt: time,
    expiresAt: time.nullable(),
    inbox: z
      .literal(false)
      .optional()
      .meta({ description: 'Only if it is a signal for the app, which no inbox shows.' }),
    status: z.enum(STATUSES).meta({
      description:
        'The first that holds: `read` (a user read it), `delivered` (a device confirmed it), `expired`, `sent` (written to a socket), `queued`.',
    }),
    readAt: time
      .nullable()
      .optional()
      .meta({ description: 'When the user first read it, if it is to a user. Is never taken back.' }),
    devices: z.array(receiptSchema).optional().meta({ description: 'Of a notification to a user.' }),
    counts: z
      .strictObject({
        sent: z.number().int().nonnegative(),
        delivered: z.number().int().nonnegative(),
        read: z.number().int().nonnegative().meta({ description: 'Users.' }),
        more: z.boolean().meta({ description: 'There are at least so many.' }),
      })
      .optional()
      .meta({
        description:
          'Devices that a notification to a topic or everyone reached, and users who read it; exact to 10,000. In a list, one to a topic is counted less far than by its id, and says so with `more`.',
      }),
  })
  .meta({ id: 'HistoryItem', description: 'A notification and what became of it.' });

export const historyPageSchema = z
  .strictObject({ items: z.array(historyItemSchema), nextCursor: scannedCursorSchema })
  .meta({ id: 'HistoryPage' });

export const devicesPageSchema = z
  .strictObject({ items: z.array(receiptSchema), nextCursor: scannedCursorSchema })
  .meta({ id: 'DevicesPage' });

const timelineEntrySchema = z
  .strictObject({
    event: z.enum(['accepted', 'sent', 'replayed', 'delivered', ...ENGAGEMENTS, 'expired']),
    at: time,
    publisher: userIdSchema.optional(),
    user: userIdSchema.optional(),
    device: deviceIdSchema.optional(),
    connectionId: z.uuid().optional(),
    node: z.string().nullable().optional(),
    by: z.enum(['ack', 'resume']).optional().meta({ description: 'How it was confirmed.' }),
  })
  .meta({ id: 'TimelineEntry' });

export const timelinePageSchema = z
  .strictObject({
    items: z.array(timelineEntrySchema),
    nextCursor: scannedCursorSchema,
    more: z.boolean().meta({ description: 'More happened than can be shown.' }),
  })
  .meta({ id: 'TimelinePage' });

const connectionSchema = z
  .strictObject({
    connectionId: z.uuid(),
    user: userIdSchema,
    device: deviceIdSchema,
    node: z.string(),
    since: time,
    until: time.nullable().meta({ description: 'Null while it is open.' }),
    position: positionSchema.meta({ description: 'Where it started; how far it got once it has ended.' }),
    reason: z.string().nullable().meta({ description: 'Why it ended.' }),
    topics: z.array(topicSchema),
  })
  .meta({ id: 'Connection', description: 'A stream that is or was open.' });

export const connectionsPageSchema = z
  .strictObject({ items: z.array(connectionSchema), nextCursor: scannedCursorSchema })
  .meta({ id: 'ConnectionsPage' });

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
  status: 'read',
  readAt: '2026-11-22T16:00:09.310Z',
  devices: [receipt],
};

const { readAt, devices: _, ...rest } = item;
const broadcast = {
  ...rest,
  to: { everyone: true },
  status: 'sent',
  counts: { sent: 812, delivered: 0, read: 0, more: false },
};

const signal = {
  ...item,
  type: 'cart.changed',
  data: { items: 3 },
  inbox: false,
  status: 'delivered',
  readAt: null,
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
    { event: 'read', at: readAt, user: 'u-42' },
  ],
  nextCursor: null,
  more: false,
};

const page = (schema: z.ZodType, summary: string, value: unknown): Answer =>
  json(200, 'One page.', schema, { page: { summary, value } });

const pathParameters = z.object({
  id: z.uuid().meta({ description: 'The id that the publish was answered with.' }),
});

const UNAVAILABLE = [...DATABASE_PROBLEMS, 'keys_unavailable'] as const;

const OWN = 'A publisher sees what it published itself; what belongs to others is 404.';

export const listNotificationsDescription: Description = {
  id: 'listNotifications',
  tag: 'History',
  summary: 'What was published, and what became of it',
  description: `Newest first. \`user\` and \`topic\` find what was addressed to exactly that id.

\`Accept: application/x-ndjson\` streams the whole selection, one item a line.`,
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
};

export const getNotificationDescription: Description = {
  id: 'getNotification',
  tag: 'History',
  summary: 'One notification, and what became of it',
  description: OWN,
  pathParameters,
  answers: [
    json(200, 'The notification.', historyItemSchema, {
      user: { summary: 'To a user', value: item },
      everyone: { summary: 'To everyone', value: broadcast },
      signal: { summary: 'A signal for the app', value: signal },
    }),
  ],
  problems: ['not_found', ...UNAVAILABLE],
};

export const listDevicesDescription: Description = {
  id: 'listDevices',
  tag: 'History',
  summary: 'The devices that a notification reached',
  description: `Every device that it was written to or that confirmed it, by user and device. ${OWN}`,
  pathParameters,
  query: pageQuerySchema,
  answers: [page(devicesPageSchema, 'A page', { items: [receipt], nextCursor: null })],
  problems: ['not_found', ...UNAVAILABLE],
};

export const getTimelineDescription: Description = {
  id: 'getTimeline',
  tag: 'History',
  summary: 'What happened to a notification, in order',
  description: `\`accepted\`, \`sent\` or \`replayed\` for each device, connection and node, \`delivered\` for each
device, \`seen\`, \`read\` and \`archived\` for each user, \`expired\`. ${OWN}`,
  pathParameters,
  query: pageQuerySchema,
  answers: [page(timelinePageSchema, 'From the publish to the confirmation', timeline)],
  problems: ['not_found', ...UNAVAILABLE],
};

export const listConnectionsDescription: Description = {
  id: 'listConnections',
  tag: 'History',
  summary: 'Who is connected, and who was',
  description:
    'Without `since` and `until` the streams that are open now, else those that were open at some time between.',
  query: connectionsQuerySchema,
  answers: [
    page(connectionsPageSchema, 'One user, connected now', { items: [connection], nextCursor: null }),
  ],
  problems: [...UNAVAILABLE],
};
