import { createHash, randomUUIDv7 } from 'node:crypto';
import { z } from 'zod';
import type { Config } from '../core/config.ts';
import { TUNING } from '../core/tuning.ts';
import { type Fault, MOST_FAULTS, Problem } from '../core/errors.ts';
import { type Topic, topicSchema, typeSchema, type UserId, userIdSchema } from '../core/identifiers.ts';
import { check, malformed, notValid, parseJson, pointerTo, type JsonBody } from '../http/json-body.ts';
import type { Limits } from '../core/limits.ts';
import type { Draft, Recipient } from '../core/notification.ts';
import {
  inTurns,
  walkCompact,
  walkElements,
  walkMembers,
  walkRoot,
  type Part,
  type Slice,
} from '../http/raw-json.ts';
import { TimeSlicer } from '../concurrency/pacing.ts';
import { scopeMissing } from '../auth/credentials.ts';
import type { Principal } from '../http/access.ts';

/* The wire format of a publish. Limits of the tenant and depth are checked below and not by the schema: a key that was used keeps its answer when they change. */

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
    inbox: z.boolean().default(true).meta({
      description: '`false`: a signal for the app, which no inbox shows. It is delivered like any other.',
    }),
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

type PublishRequest = z.infer<typeof publishSchema>;
export type PublishRoute = 'single' | 'batch';

/** A publish request that has the right shape. Whether limits and expiry let it pass is a second question: a known key is answered without it. */
interface ReadPublication {
  readonly drafts: readonly Draft[];
  /** Set when a single publish named `users`: they are part of its answer. */
  readonly users: readonly UserId[] | undefined;
  readonly refusal: Problem | undefined;
  /** What is addressed to more than a user, by the JSON pointer to its `to`. */
  readonly broadcasts: readonly BroadcastRecipient[];
}

interface BroadcastRecipient {
  readonly pointer: string;
  /** Undefined: everyone. */
  readonly topic: Topic | undefined;
}

/** The body of a publish, before anything is made of its data. */
interface Envelope {
  /** How many notifications it asks for, as far as it has the right shape. Beyond what any setting allows reading has stopped. */
  readonly asked: number;
  /** What is around the items of a batch; undefined for a single publish. */
  readonly around: unknown;
  readonly items: readonly Item[];
}

interface Item {
  readonly path: readonly PropertyKey[];
  /** As JSON.parse has it, but `data` and what nobody knows are null. */
  readonly value: unknown;
  readonly data: Slice | undefined;
  /** How many notifications it is. */
  readonly asked: number;
  /** The path of the first of two members of one name. JSON.parse keeps the last, other readers the first. */
  readonly double: readonly PropertyKey[] | undefined;
}

/** Members of one object that are looked at. An object with more is refused in any case: not so many are known. */
const MOST_MEMBERS = 1_000;
/** Of what is made of one member of the envelope; as many users do not fit in any request. */
const MOST_VALUES = 2 * TUNING.MAX_NOTIFICATIONS_PER_REQUEST;

const KNOWN = new Set(Object.keys(publishSchema.shape));

/**
 * Reads what a publish asks for. `data` is only passed over, and large parts are not looked into: JSON.parse of eight
 * megabytes holds up everybody for a second.
 * @throws Problem `malformed_json`
 */
export async function readEnvelope(route: PublishRoute, { text }: JsonBody): Promise<Envelope> {
  if (text.trim() === '') throw new Problem('malformed_json', 'The body is empty.');
  try {
    return await inTurns(route === 'single' ? walkSingle(text) : walkBatch(text), new TimeSlicer());
  } catch (error) {
    throw error instanceof SyntaxError ? malformed(error) : error;
  }
}

function* walkSingle(text: string): Generator<void, Envelope> {
  const root = yield* walkRoot(text);
  const item = yield* walkItem(text, root, []);
  return { asked: item.asked, around: undefined, items: [item] };
}

function* walkBatch(text: string): Generator<void, Envelope> {
  const root = yield* walkRoot(text);
  const { value: around, parts, double } = yield* walkObject(text, root, [], NO_PARTS);
  if (double !== undefined) throw standsTwice(double);
  const list = parts.get('notifications');
  if (list === undefined || text[list.start] !== '[') return { asked: 0, around, items: [] };
  const items: Item[] = [];
  let asked = 0;
  for (const part of yield* walkElements(text, list.start, TUNING.MAX_NOTIFICATIONS_PER_REQUEST + 1)) {
    const item = yield* walkItem(text, part, ['notifications', items.length]);
    items.push(item);
    asked += item.asked;
    if (asked > TUNING.MAX_NOTIFICATIONS_PER_REQUEST) break;
    yield;
  }
  // For their number; they are checked one by one.
  if (isObject(around)) around['notifications'] = items.map(() => null);
  return { asked, around, items };
}

const NO_PARTS: ReadonlySet<string> = new Set();
const PARTS: ReadonlySet<string> = new Set([...KNOWN].filter((name) => name !== 'data'));

function* walkItem(text: string, part: Part, path: readonly PropertyKey[]): Generator<void, Item> {
  const { value, parts, double } = yield* walkObject(text, part, path, PARTS);
  const to = parts.get('to');
  const inner = to !== undefined && to.values <= MOST_VALUES && text[to.start] === '{';
  const ofTo = inner ? yield* walkObject(text, to, [...path, 'to'], NO_PARTS) : undefined;
  // So many values are nothing else but users, or no shape that anybody knows.
  const asked = to !== undefined && to.values > MOST_VALUES ? to.values : countRecipients(value);
  return { path, value, data: parts.get('data'), asked, double: double ?? ofTo?.double };
}

/** The members of an object: their values, null in place of those that are not `wanted`; and where in the text each stands. What is no object is null. */
function* walkObject(
  text: string,
  part: Part,
  path: readonly PropertyKey[],
  wanted: ReadonlySet<string>,
): Generator<void, { value: unknown; parts: Map<string, Part>; double: PropertyKey[] | undefined }> {
  const parts = new Map<string, Part>();
  if (text[part.start] !== '{') return { value: null, parts, double: undefined };
  const values: [string, unknown][] = [];
  let double: PropertyKey[] | undefined;
  for (const { name, value } of yield* walkMembers(text, part.start, MOST_MEMBERS)) {
    if (parts.has(name)) double ??= [...path, name];
    parts.set(name, value);
    const made = wanted.has(name) && value.values <= MOST_VALUES;
    values.push([name, made ? parseJson(text, value) : null]);
  }
  // Not by assignment: `__proto__` is a name like others.
  return { value: Object.fromEntries(values), parts, double };
}

/**
 * Reads the body of a publish.
 * @throws Problem `validation_failed` with a pointer for every fault of shape, `malformed_json`
 */
export async function readPublication(
  route: PublishRoute,
  { text }: JsonBody,
  { asked, around, items }: Envelope,
  trace: string | null,
  now: number,
  config: Pick<Config, 'MAX_NOTIFICATIONS_PER_REQUEST' | 'MAX_DATA_DEPTH'>,
  limits: Pick<Limits, 'dataBytes' | 'burst'>,
): Promise<ReadPublication> {
  // More than the burst would never pass, however long its publisher waited.
  const most = Math.min(config.MAX_NOTIFICATIONS_PER_REQUEST, limits.burst);
  if (asked > TUNING.MAX_NOTIFICATIONS_PER_REQUEST) {
    throw new Problem('validation_failed', 'The request is over a limit.', {
      errors: [tooMany(route, asked, most)],
    });
  }
  const slicer = new TimeSlicer();
  const requests = await readRequests(route, around, items, slicer);
  const faults: Fault[] = [];
  const drafts: Draft[] = [];
  let count = 0;
  for (const { path, request, data: slice } of requests) {
    const recipients = recipientsOf(request.to);
    count += recipients.length;
    // Beyond the limit nothing is built any more, so that a small body cannot become a million drafts.
    if (count > most) continue;
    const data = await inTurns(walkCompact(text, slice, limits.dataBytes), slicer);
    const { size } = data;
    const { type, inbox } = request;
    const expiresAt = expiryOf(request, now);
    if (size > limits.dataBytes)
      faults.push(
        fault(path, 'data', `has ${size} bytes without white space; at most ${limits.dataBytes} are allowed`),
      );
    if (data.depth > config.MAX_DATA_DEPTH)
      faults.push(
        fault(
          path,
          'data',
          `is nested ${data.depth} levels deep; at most ${config.MAX_DATA_DEPTH} are allowed`,
        ),
      );
    // Within the limits, so that it takes its few milliseconds; nobody else has looked whether it is JSON.
    if (faults.length === 0) parseJson(text, slice);
    if (expiresAt !== null && expiresAt <= now) faults.push(fault(path, 'expiresAt', 'is in the past'));
    // Nothing is built of what is refused.
    for (const to of faults.length === 0 ? recipients : []) {
      drafts.push({ id: randomUUIDv7(), to, type, data: data.text, size, expiresAt, inbox, trace });
    }
    if (slicer.isOver) await slicer.next();
  }
  if (count > most) faults.push(tooMany(route, count, most));
  const refusal =
    faults.length === 0
      ? undefined
      : new Problem('validation_failed', 'The request is over a limit or already expired.', {
          errors: faults,
        });
  return {
    drafts,
    users: route === 'single' ? requests[0]?.request.to.users : undefined,
    refusal,
    broadcasts: requests.flatMap(broadcastRecipients),
  };
}

interface CheckedRequest {
  readonly path: readonly PropertyKey[];
  readonly request: PublishRequest;
  readonly data: Slice;
}

/** What is around a batch; its items are checked one by one. */
const aroundSchema = batchSchema.extend({
  notifications: z.array(z.null()).min(1, 'holds at least one notification'),
});

const faultsIn = (schema: z.ZodType, value: unknown): Fault[] => {
  const checked = check(schema, value);
  return 'faults' in checked ? checked.faults : [];
};

async function readRequests(
  route: PublishRoute,
  around: unknown,
  items: readonly Item[],
  slicer: TimeSlicer,
): Promise<CheckedRequest[]> {
  const faults = route === 'batch' ? faultsIn(aroundSchema, around) : [];
  const requests: CheckedRequest[] = [];
  for (const { path, value, data, double } of items) {
    const checked = check(publishSchema, value, path);
    if ('faults' in checked) faults.push(...checked.faults);
    else if (double !== undefined) throw standsTwice(double);
    else if (data === undefined) faults.push(fault(path, 'data', 'is required'));
    else requests.push({ path, request: checked.value, data });
    if (faults.length >= MOST_FAULTS) break;
    if (slicer.isOver) await slicer.next();
  }
  if (faults.length > 0) throw notValid(faults);
  return requests;
}

/** What a key stands for: the route and the exact bytes. */
export function fingerprintOf(route: PublishRoute, bytes: Buffer): Buffer {
  return createHash('sha256').update(route).update('\0').update(bytes).digest();
}

const fault = (path: readonly PropertyKey[], name: string, detail: string): Fault => ({
  pointer: pointerTo([...path, name]),
  detail,
});

const standsTwice = (path: readonly PropertyKey[]) =>
  notValid([{ pointer: pointerTo(path), detail: 'stands here twice' }]);

const tooMany = (route: PublishRoute, count: number, most: number): Fault => ({
  pointer: route === 'batch' ? '/notifications' : '/to/users',
  detail: `makes ${count} notifications; at most ${most} per request are allowed`,
});

function countRecipients(item: unknown): number {
  const users = isObject(item) && isObject(item['to']) ? item['to']['users'] : undefined;
  return Array.isArray(users) ? users.length : 1;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;

function recipientsOf({ user, users, topic }: PublishRequest['to']): Recipient[] {
  if (user !== undefined) return [{ user }];
  if (users !== undefined) return users.map((each) => ({ user: each }));
  if (topic !== undefined) return [{ topic }];
  return [{ everyone: true }];
}

function broadcastRecipients({ path, request: { to } }: CheckedRequest): BroadcastRecipient[] {
  if (to.topic === undefined && to.everyone === undefined) return [];
  return [{ pointer: pointerTo([...path, 'to']), topic: to.topic }];
}

function expiryOf({ expiresAt, ttlSeconds }: PublishRequest, now: number): number | null {
  if (expiresAt !== undefined) return Date.parse(expiresAt);
  return ttlSeconds === undefined ? null : now + ttlSeconds * 1000;
}

/**
 * Whether a publisher may address what it addresses: everyone by a scope of its own, and of topics those of its token, if
 * that has a list of them. The list is about topics alone; users are everybody's, and everyone is the scope's.
 *
 * @throws Problem `scope_missing` or `topic_forbidden` (403), with a pointer to each recipient
 */
export function checkRights(
  { scopes, publishesTo }: Principal,
  broadcasts: readonly BroadcastRecipient[],
): void {
  if (!scopes.has('notifications:broadcast')) {
    const everyone = broadcasts.filter(({ topic }) => topic === undefined);
    if (everyone.length > 0) {
      const detail = 'takes the scope notifications:broadcast';
      throw scopeMissing(
        ['notifications:broadcast'],
        everyone.map(({ pointer }) => ({ pointer: `${pointer}/everyone`, detail })),
      );
    }
  }
  if (publishesTo === undefined) return;
  const foreign = broadcasts.filter(({ topic }) => topic !== undefined && !publishesTo.has(topic));
  if (foreign.length === 0) return;
  throw new Problem('topic_forbidden', 'The token does not carry every topic that is published to.', {
    errors: foreign.map(({ pointer }) => ({
      pointer: `${pointer}/topic`,
      detail: 'is not among the topics of the token',
    })),
  });
}
