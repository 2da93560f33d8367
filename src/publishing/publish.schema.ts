import { z } from 'zod';
import { topicSchema, typeSchema, userIdSchema } from '../core/identifiers.ts';

/* The wire format of a publish. Limits that are settings are not here but in publication.ts: a key that was used keeps its answer when they change. */

const TARGETS = ['user', 'users', 'topic', 'everyone'] as const;

const recipientSchema = z
  .strictObject({
    user: userIdSchema.optional(),
    users: z
      .array(userIdSchema)
      .min(1, 'names at least one user')
      .superRefine((users, context) => {
        const seen = new Map<string, number>();
        users.forEach((user, index) => {
          const first = seen.get(user);
          if (first === undefined) seen.set(user, index);
          else
            context.addIssue({
              code: 'custom',
              path: [index],
              message: `repeats users/${first}; each user is named once`,
            });
        });
      })
      .optional(),
    topic: topicSchema.optional(),
    everyone: z.literal(true).optional(),
  })
  .superRefine((to, context) => {
    const named = TARGETS.filter((target) => to[target] !== undefined);
    if (named.length !== 1) {
      context.addIssue({
        code: 'custom',
        message:
          named.length === 0
            ? 'names exactly one of user, users, topic, everyone'
            : `names ${named.join(' and ')}; exactly one is allowed`,
      });
    }
  })
  .meta({ id: 'Recipients', minProperties: 1, maxProperties: 1 });

const LAST_MOMENT = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
const TEN_YEARS_IN_SECONDS = 10 * 366 * 24 * 3600;

export const publishSchema = z
  .strictObject({
    to: recipientSchema,
    type: typeSchema,
    data: z.unknown().meta({
      description: 'Any JSON value; passed on as it was written but for white space between tokens.',
    }),
    expiresAt: z.iso
      .datetime({ offset: true, error: 'is a time as RFC 3339 has it, such as 2026-12-01T00:00:00.000Z' })
      // An offset can carry the last day of the calendar into the year 10000, which RFC 3339 cannot write.
      .refine((time) => Date.parse(time) <= LAST_MOMENT, 'is before the year 10000 in UTC')
      .optional(),
    ttlSeconds: z.number().int().min(1).max(TEN_YEARS_IN_SECONDS).optional(),
  })
  .superRefine((item, context) => {
    if (item.expiresAt !== undefined && item.ttlSeconds !== undefined) {
      context.addIssue({
        code: 'custom',
        path: ['ttlSeconds'],
        message: 'cannot stand beside expiresAt; send one of them',
      });
    }
  })
  .meta({ id: 'PublishRequest', not: { required: ['expiresAt', 'ttlSeconds'] } });

export const batchSchema = z
  .strictObject({ notifications: z.array(publishSchema).min(1, 'holds at least one notification') })
  .meta({ id: 'PublishBatchRequest' });

const positionString = z
  .string()
  .regex(/^\d{1,16}$/)
  .meta({ description: 'An opaque decimal string that grows in commit order within the tenant.' });

export const storedSchema = z
  .strictObject({
    id: z.uuid().meta({ description: 'A UUIDv7.' }),
    position: positionString,
    createdAt: z.iso.datetime().meta({ description: 'The time inside the position.' }),
  })
  .meta({ id: 'StoredNotification' });

export const storedForUsersSchema = z
  .strictObject({ notifications: z.array(storedSchema.extend({ user: z.string() })) })
  .meta({ id: 'StoredForUsers' });

export const storedBatchSchema = z
  .strictObject({ notifications: z.array(storedSchema) })
  .meta({ id: 'StoredBatch' });

export const idempotencyKeySchema = z
  .string()
  .regex(/^[\x21-\x7e]{1,255}$/, 'has 1 to 255 visible ASCII characters');

export type PublishRequest = z.infer<typeof publishSchema>;
