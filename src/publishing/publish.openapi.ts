import { z } from 'zod';
import { DATABASE_PROBLEMS, type Description, json } from '../http/description.ts';
import {
  batchSchema,
  publishSchema,
  storedBatchSchema,
  storedForUsersSchema,
  storedSchema,
} from './publication.ts';

const toUser = {
  to: { user: 'u-42' },
  type: 'order.shipped',
  data: { title: 'Your order is on its way', order: 4711 },
  expiresAt: '2126-12-01T00:00:00.000Z',
};

const toTopic = { to: { topic: 'team:blue' }, type: 'build.failed', data: { build: 812 }, ttlSeconds: 3_600 };

const signal = { to: { user: 'u-42' }, type: 'cart.changed', data: { items: 3 }, inbox: false };

const stored = {
  id: '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70',
  position: '890123456789504',
  createdAt: '2026-11-22T16:00:00.123Z',
};

const next = { ...stored, id: '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b71', position: '890123456789505' };

const IDEMPOTENCY = `Send an \`Idempotency-Key\`: when an answer was lost, the same request with the same key gives the
first answer again and stores nothing twice. Another body under the same key is 422 \`idempotency_mismatch\`.`;

const LIMITS = `The tenant has a quota of notifications that all its publishers and all nodes share: a request costs as many as
it makes, and is refused whole with 429 and \`Retry-After\` while there are not enough. More than the tenant may publish at
once is 400, since it would never pass. A known \`Idempotency-Key\` is answered at no cost.`;

const RIGHTS = `\`everyone\` takes the scope \`notifications:broadcast\` beside \`notifications:publish\`. A token of a service
that has a claim of topics publishes to these topics and to no other.`;

const PROBLEMS = [
  'topic_forbidden',
  'storage_full',
  'rate_limited',
  'idempotency_mismatch',
  'overloaded',
  ...DATABASE_PROBLEMS,
  'draining',
  'keys_unavailable',
] as const satisfies Description['problems'];

export const publishNotificationDescription: Description = {
  id: 'publishNotification',
  tag: 'Publish',
  summary: 'Publish a notification',
  description: `Answers 201 only after the notification is committed to disk. \`to\` names exactly one of \`user\`,
\`users\` (one notification for each), \`topic\` (every token that carries it) and \`everyone\` (of the tenant).
${RIGHTS}

\`data\` is passed on as it was written, but for white space between tokens: at most 64,000 bytes (unless the tenant has its own
\`dataBytes\`) and 100 levels.
\`expiresAt\` or \`ttlSeconds\`, not both: an expired notification is never sent.
\`inbox: false\` makes it a signal for the app, which no inbox shows.

${LIMITS}

${IDEMPOTENCY}`,
  headers: ['Idempotency-Key', 'traceparent'],
  body: {
    schema: publishSchema,
    examples: {
      user: { summary: 'To one user', value: toUser },
      users: { summary: 'To several users', value: { ...toUser, to: { users: ['u-42', 'u-43'] } } },
      topic: { summary: 'To a topic', value: toTopic },
      everyone: {
        summary: 'To everyone of the tenant',
        value: { to: { everyone: true }, type: 'maintenance.planned', data: { from: '22:00' } },
      },
      signal: { summary: 'A signal for the app', value: signal },
    },
  },
  answers: [
    {
      ...json(
        201,
        'Stored. With `users`, each of them has a notification of its own.',
        z.union([storedSchema, storedForUsersSchema]),
        {
          one: { summary: 'To a user, a topic or everyone', value: stored },
          users: {
            summary: 'To several users',
            value: {
              notifications: [
                { ...stored, user: 'u-42' },
                { ...next, user: 'u-43' },
              ],
            },
          },
        },
      ),
      headers: ['Location', 'Idempotency-Replayed'],
    },
  ],
  everyAnswer: ['RateLimit', 'RateLimit-Policy'],
  problems: PROBLEMS,
};

export const publishBatchDescription: Description = {
  id: 'publishBatch',
  tag: 'Publish',
  summary: 'Publish many notifications at once',
  description: `All of them are stored, or none. The answer is in the order of the request, an item with \`users\`
expanded in its place. At most 1,000 notifications after that and 8 MiB (a setting of the service). ${RIGHTS}

${LIMITS}

${IDEMPOTENCY}`,
  headers: ['Idempotency-Key', 'traceparent'],
  body: {
    schema: batchSchema,
    examples: { two: { summary: 'To a user and a topic', value: { notifications: [toUser, toTopic] } } },
  },
  answers: [
    {
      ...json(201, 'All stored.', storedBatchSchema, {
        two: { summary: 'Two notifications', value: { notifications: [stored, next] } },
      }),
      headers: ['Idempotency-Replayed'],
    },
  ],
  everyAnswer: ['RateLimit', 'RateLimit-Policy'],
  problems: PROBLEMS,
};
