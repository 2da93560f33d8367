import { z } from 'zod';
import { deviceIdSchema, topicSchema } from '../core/identifiers.ts';

const time = z.iso.datetime();
const position = z.string().regex(/^\d{1,16}$/);

export const erasureSchema = z
  .strictObject({
    id: z.uuid(),
    status: z.enum(['closing', 'erasing', 'done']).meta({
      description:
        '`closing`: streams are ended on every node, and what was under way is waited for. `erasing`: rows go, and what nodes still have in memory.',
    }),
    createdAt: time,
    doneAt: time.nullable(),
    erased: z.record(z.string(), z.int()).meta({ description: 'How many of what are gone so far.' }),
  })
  .meta({ id: 'Erasure', description: 'The erasure of the data of a user. It does not say of whom.' });

/** One line of an export, but for `notification`, which is an item of history with `kind` in front. */
export const exportLineSchemas = {
  device: z.strictObject({
    kind: z.literal('device'),
    device: deviceIdSchema,
    cursor: position,
    topics: z.array(topicSchema),
    lastSeenAt: time,
  }),
  connection: z.strictObject({
    kind: z.literal('connection'),
    connectionId: z.uuid(),
    device: deviceIdSchema,
    node: z.string(),
    since: time,
    until: time.nullable(),
    position,
    reason: z.string().nullable(),
    topics: z.array(topicSchema),
  }),
  sent: z.strictObject({
    kind: z.literal('sent'),
    device: deviceIdSchema,
    connectionId: z.uuid(),
    from: position,
    to: position,
    at: time,
    replayed: z.boolean(),
  }),
  acknowledgement: z.strictObject({
    kind: z.literal('acknowledgement'),
    device: deviceIdSchema,
    from: position,
    to: position,
    at: time,
    by: z.enum(['ack', 'resume']),
    topics: z.array(topicSchema),
  }),
  answer: z.strictObject({
    kind: z.literal('answer'),
    publisher: z.string(),
    key: z.string(),
    at: time,
    notifications: z.array(z.uuid()),
  }),
  ticket: z.strictObject({ kind: z.literal('ticket'), device: deviceIdSchema, expiresAt: time }),
  order: z.strictObject({
    kind: z.literal('order'),
    order: z.enum(['disconnect', 'renew']),
    connectionId: z.uuid().nullable(),
    at: time,
    expiresAt: time,
  }),
  revocation: z.strictObject({
    kind: z.literal('revocation'),
    id: z.uuid(),
    issuedBefore: time,
    createdAt: time,
    expiresAt: time,
  }),
};
