import { z } from 'zod';
import { topicSchema, typeSchema, userIdSchema } from '../core/identifiers.ts';
import { instantSchema } from '../core/position.ts';
import { STATUSES } from './delivery-status.ts';

/* The query strings of history. Limits are texts here: '' and '5.0' are no numbers that somebody meant. */

const limit = z
  .string()
  .regex(/^[1-9][0-9]{0,2}$/, 'is a whole number from 1 to 200')
  .transform(Number)
  .pipe(z.number().max(200, 'is a whole number from 1 to 200'))
  .optional()
  .meta({ description: 'Most items of one page, 1 to 200; 50 when absent.' });

const cursor = z
  .string()
  .max(4_096)
  .optional()
  .meta({ description: '`nextCursor` of the page before, with the same filters.' });

const time = (description: string) =>
  instantSchema
    .transform((instant) => instant.getTime())
    .optional()
    .meta({ description });

const page = { limit, cursor };

export const DEFAULT_LIMIT = 50;

export const historyQuerySchema = z.strictObject({
  user: userIdSchema.optional().meta({ description: 'Addressed to this user id.' }),
  topic: topicSchema.optional().meta({ description: 'Addressed to this topic.' }),
  type: typeSchema.optional(),
  status: z.enum(STATUSES).optional(),
  since: time('Accepted at or after this time.'),
  until: time('Accepted before this time.'),
  ...page,
});

export const pageQuerySchema = z.strictObject(page);

export const connectionsQuerySchema = z.strictObject({
  user: userIdSchema.optional(),
  since: time('Connected at or after this time; without `since` and `until`: connected now.'),
  until: time('Connected before this time.'),
  ...page,
});

export type HistoryQuery = z.infer<typeof historyQuerySchema>;

/** What is no UUID is no id of a notification. */
export const isNotificationId = (text: string): boolean =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(text);
