import { z } from 'zod';
import { typeSchema } from '../core/identifiers.ts';
import { recipientSchema } from '../core/notification.ts';
import { positionSchema, sentPosition } from '../core/position.ts';
import { DATABASE_PROBLEMS, json, type Description } from '../http/description.ts';
import { pageParameters, scannedCursorSchema } from '../http/pages.ts';
import { FILTERS } from './inbox.store.ts';
import { COUNTED } from './snapshot.ts';

/* What the routes of the inbox are asked. */

const MOST_ITEMS = 200;

export const inboxQuerySchema = z.strictObject({
  filter: z.enum(FILTERS).default('all').meta({
    description: '`all` leaves archived ones out; `archived` shows only those.',
  }),
  type: typeSchema.optional().meta({ description: 'How `type` begins: `order.` finds `order.shipped`.' }),
  ...pageParameters,
});

const SHOWN = 'is a position: that of an item, or of a snapshot';
const shown = (what: string) => sentPosition(SHOWN).optional().meta({ description: what });

export const marksSchema = z
  .strictObject({
    seenUpTo: shown('Everything up to this position was shown.'),
    readUpTo: shown('Everything up to this position was read, and so seen.'),
    archivedUpTo: shown('Everything up to this position is archived.'),
    items: z
      .array(
        z
          .strictObject({
            id: z.uuid().transform((id) => id.toLowerCase()),
            read: z.boolean().optional(),
            archived: z.boolean().optional(),
          })
          .refine(({ read, archived }) => read !== undefined || archived !== undefined, {
            message: 'says read, archived, or both',
          }),
      )
      .max(MOST_ITEMS, `holds at most ${MOST_ITEMS} items`)
      .superRefine((items, context) => {
        const seen = new Set<string>();
        for (const [index, { id }] of items.entries()) {
          if (seen.has(id))
            context.addIssue({
              code: 'custom',
              path: [index, 'id'],
              message: 'is in this request already; name each notification once',
            });
          seen.add(id);
        }
      })
      .optional()
      .meta({
        description: 'What is said of single notifications. It counts after what is said by position.',
      }),
    revision: shown(
      'The `revision` of the inbox that was looked at: what was said of single notifications since then stays as it is, whatever is said by position. Without it nothing stays.',
    ),
  })
  .meta({ id: 'InboxMarks' });

/* What they answer. Items are put together by hand around `data`; a test holds the two together. */

const time = z.iso.datetime();

const count = (what: string) => z.int().min(0).max(COUNTED).meta({ description: what });

const snapshotFields = {
  unread: count('Neither read nor archived.'),
  unseen: count('Neither seen nor archived.'),
  exact: z.boolean().meta({ description: 'False: there may be more than this.' }),
  seenUpTo: positionSchema,
  readUpTo: positionSchema,
  archivedUpTo: positionSchema,
  position: positionSchema.meta({ description: 'The end of the log that was counted to.' }),
  revision: positionSchema.meta({
    description: 'Grows with every change by this user. Compare it as a number.',
  }),
  at: time.meta({ description: 'When it was counted, by the clock of the database.' }),
  nextExpiry: time.nullable().meta({ description: 'When the first of what is counted expires.' }),
};

export const snapshotSchema = z.strictObject(snapshotFields).meta({
  id: 'InboxSnapshot',
  description: 'An inbox in numbers. Of two the one with the larger `revision`, `position`, `at` holds.',
});

export const inboxItemSchema = z
  .strictObject({
    id: z.uuid(),
    position: positionSchema,
    type: typeSchema,
    to: recipientSchema,
    data: z.unknown().meta({ description: 'As it was published.' }),
    createdAt: time,
    expiresAt: time.nullable(),
    seen: z.boolean(),
    readAt: time.nullable().meta({ description: 'Null: it is unread.' }),
    archivedAt: time.nullable().meta({ description: 'Null: it is not archived.' }),
  })
  .meta({ id: 'InboxItem' });

export const inboxPageSchema = z
  .strictObject({
    items: z.array(inboxItemSchema),
    nextCursor: scannedCursorSchema,
    ...snapshotFields,
  })
  .meta({ id: 'InboxPage' });

export const marksAnswerSchema = z
  .strictObject({
    ...snapshotFields,
    unknown: z
      .array(z.uuid())
      .meta({ description: 'Ids that are not in this inbox, or not any more. The others were stored.' }),
  })
  .meta({ id: 'InboxMarked' });

const NUMBERS = {
  unread: 2,
  unseen: 1,
  exact: true,
  seenUpTo: '890123456789504',
  readUpTo: '890123456785408',
  archivedUpTo: '0',
  position: '890123456793600',
  revision: '890123456797696',
  at: '2026-12-01T09:30:00.000Z',
  nextExpiry: null,
};

const ITEM = {
  id: '019abcde-f012-7345-8678-9abcdef01234',
  position: '890123456793600',
  type: 'order.shipped',
  to: { user: 'u-42' },
  data: { title: 'Your order is on its way' },
  createdAt: '2026-12-01T09:29:00.000Z',
  expiresAt: null,
  seen: false,
  readAt: null,
  archivedAt: null,
};

const PROBLEMS = ['too_many_requests', 'being_erased', ...DATABASE_PROBLEMS, 'keys_unavailable'] as const;

export const listInboxDescription: Description = {
  id: 'listInbox',
  tag: 'Inbox',
  summary: 'List what is for the user',
  description: `Newest first: what is for the user, for everyone, and for the topics of the token, without what has expired
and what was published with \`"inbox": false\`. The numbers are those of the whole inbox, whatever the filter.`,
  query: inboxQuerySchema,
  answers: [
    json(200, 'A page, and the inbox in numbers.', inboxPageSchema, {
      page: { summary: 'The last page', value: { items: [ITEM], nextCursor: null, ...NUMBERS } },
    }),
  ],
  problems: [...PROBLEMS],
};

export const countInboxDescription: Description = {
  id: 'countInbox',
  tag: 'Inbox',
  summary: 'Count what is new',
  description: `The inbox of the user in numbers, as one statement of the database saw it. A stream with \`inbox=1\` tells
them by itself whenever they change.`,
  answers: [
    json(200, 'The numbers.', snapshotSchema, {
      numbers: { summary: 'Two are unread', value: NUMBERS },
    }),
  ],
  problems: [...PROBLEMS],
};

export const markInboxDescription: Description = {
  id: 'markInbox',
  tag: 'Inbox',
  summary: 'Say what was seen, read or archived',
  description: `By position, for everything up to there, and for single notifications. Harmless when repeated. Committed
before it is answered, and then told to all streams of the user with \`inbox=1\`.

Send as \`readUpTo\` the position of what the user *saw*, and with it the \`revision\` of that moment: then a mark that was
made on another device meanwhile stays.`,
  body: {
    schema: marksSchema,
    examples: {
      open: { summary: 'The list was opened', value: { seenUpTo: '890123456793600' } },
      all: {
        summary: 'Mark all as read',
        value: { readUpTo: '890123456793600', revision: '890123456797696' },
      },
      one: {
        summary: 'Mark one as unread, archive it',
        value: { items: [{ id: '019abcde-f012-7345-8678-9abcdef01234', read: false, archived: true }] },
      },
    },
  },
  answers: [
    json(200, 'Stored. The numbers are those after it.', marksAnswerSchema, {
      marked: { summary: 'All were known', value: { ...NUMBERS, unknown: [] } },
    }),
  ],
  problems: ['position_unknown', 'overloaded', ...PROBLEMS],
};
