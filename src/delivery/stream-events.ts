import { z } from 'zod';
import { deviceIdSchema, topicSchema, typeSchema, userIdSchema } from '../core/identifiers.ts';

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
    to: z
      .union([
        z.strictObject({ user: userIdSchema }),
        z.strictObject({ topic: topicSchema }),
        z.strictObject({ everyone: z.literal(true) }),
      ])
      .meta({ description: 'Whom it was addressed to.' }),
    data: z.json().meta({ description: 'As it was published.' }),
    createdAt: time,
    expiresAt: time.nullable(),
  })
  .meta({
    id: 'StreamNotification',
    description: 'A notification. Its event has no name, so `onmessage` gets it.',
  });

const sync = z
  .strictObject({
    connectionId: z.uuid(),
    device: deviceIdSchema,
    resume: z.enum(['exact', 'undelivered', 'latest', 'earliest', 'gap', 'reset']).meta({
      description:
        '`gap`: older than what is kept, `oldest` says where it continues. `reset`: the position was malformed or ahead of the log and counts as absent.',
    }),
    from: position,
    head: position,
    oldest: position.optional(),
    tokenExpiresAt: time,
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
