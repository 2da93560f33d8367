import { z } from 'zod';
import { deviceIdSchema, topicSchema, typeSchema, userIdSchema } from '../core/identifiers.ts';
import { STATUSES } from '../history/delivery-status.ts';

/* What the routes of history answer. Items are put together by hand around `data`; a test holds the two together. */

const position = z
  .string()
  .regex(/^\d{1,16}$/)
  .meta({ description: 'An opaque decimal string that grows in commit order.' });
const time = z.iso.datetime();
const nextCursor = z.string().nullable().meta({
  description:
    'Send it as `cursor` for the next page; null: there is none. A page may hold fewer items than asked for, even none, while this is set.',
});

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
    position,
    type: typeSchema,
    to: z.union([
      z.strictObject({ user: userIdSchema }),
      z.strictObject({ topic: topicSchema }),
      z.strictObject({ everyone: z.literal(true) }),
    ]),
    data: z.json().meta({ description: 'As it was published.' }),
    publisher: userIdSchema.meta({ description: '`sub` of the token that published it.' }),
    createdAt: time,
    expiresAt: time.nullable(),
    status: z.enum(STATUSES).meta({
      description:
        'The first that holds: `delivered` (a device confirmed it), `expired`, `sent` (written to a socket), `queued`.',
    }),
    devices: z.array(receiptSchema).optional().meta({ description: 'Of a notification to a user.' }),
    counts: z
      .strictObject({
        sent: z.number().int().nonnegative(),
        delivered: z.number().int().nonnegative(),
        more: z.boolean().meta({ description: 'There are at least so many.' }),
      })
      .optional()
      .meta({
        description:
          'Devices of a notification to a topic or everyone; exact to 10,000. In a list, one to a topic is counted less far than by its id, and says so with `more`.',
      }),
  })
  .meta({ id: 'HistoryItem', description: 'A notification and what became of it.' });

export const historyPageSchema = z
  .strictObject({ items: z.array(historyItemSchema), nextCursor })
  .meta({ id: 'HistoryPage' });

export const devicesPageSchema = z
  .strictObject({ items: z.array(receiptSchema), nextCursor })
  .meta({ id: 'DevicesPage' });

const timelineEntrySchema = z
  .strictObject({
    event: z.enum(['accepted', 'sent', 'replayed', 'delivered', 'expired']),
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
    nextCursor,
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
    position: position.meta({ description: 'Where it started; how far it got once it has ended.' }),
    reason: z.string().nullable().meta({ description: 'Why it ended.' }),
    topics: z.array(topicSchema),
  })
  .meta({ id: 'Connection', description: 'A stream that is or was open.' });

export const connectionsPageSchema = z
  .strictObject({ items: z.array(connectionSchema), nextCursor })
  .meta({ id: 'ConnectionsPage' });
