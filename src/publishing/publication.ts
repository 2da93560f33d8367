import { createHash, randomUUIDv7 } from 'node:crypto';
import { z } from 'zod';
import { MOST_NOTIFICATIONS_PER_REQUEST, type Config } from '../core/config.ts';
import { MOST_FAULTS, Problem, type Fault } from '../core/errors.ts';
import type { Topic, UserId } from '../core/identifiers.ts';
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
import { TimeSlicer as Turn } from '../concurrency/time-slicer.ts';
import { batchSchema, publishSchema, type PublishRequest } from './publish.schema.ts';

export type PublishRoute = 'single' | 'batch';

/** A publish request that has the right shape. Whether limits and expiry let it pass is a second question: a known key is answered without it. */
export interface ReadPublication {
  readonly drafts: readonly Draft[];
  /** Set when a single publish named `users`: they are part of its answer. */
  readonly users: readonly UserId[] | undefined;
  readonly refusal: Problem | undefined;
  /** What is addressed to more than a user, by the JSON pointer to its `to`. */
  readonly wide: readonly BroadcastRecipient[];
}

export interface BroadcastRecipient {
  readonly pointer: string;
  /** Undefined: everyone. */
  readonly topic: Topic | undefined;
}

/** The body of a publish, before anything is made of its data. */
export interface Envelope {
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

/** Of those of one object; more are refused in any case, since there are not so many that are known. */
const MOST_MEMBERS = 1_000;
/** Of what is made of one member of the envelope; as many users do not fit in any request. */
const MOST_VALUES = 2 * MOST_NOTIFICATIONS_PER_REQUEST;

const KNOWN = new Set(Object.keys(publishSchema.shape));

/**
 * Reads what a publish asks for. `data` is only passed over, and large parts are not looked into: JSON.parse of eight
 * megabytes holds up everybody for a second.
 * @throws Problem `malformed_json`
 */
export async function readEnvelope(route: PublishRoute, { text }: JsonBody): Promise<Envelope> {
  if (text.trim() === '') throw new Problem('malformed_json', 'The body is empty.');
  try {
    return await inTurns(route === 'single' ? walkSingle(text) : walkBatch(text), new Turn());
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
  for (const part of yield* walkElements(text, list.start, MOST_NOTIFICATIONS_PER_REQUEST + 1)) {
    const item = yield* walkItem(text, part, ['notifications', items.length]);
    items.push(item);
    asked += item.asked;
    if (asked > MOST_NOTIFICATIONS_PER_REQUEST) break;
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

/** An object whose members are null but for those that are `wanted`, and where all of them are. What is no object is null. */
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
  if (asked > MOST_NOTIFICATIONS_PER_REQUEST) {
    throw new Problem('validation_failed', 'The request is over a limit.', {
      errors: [tooMany(route, asked, most)],
    });
  }
  const turn = new Turn();
  const requests = await readRequests(route, around, items, turn);
  const faults: Fault[] = [];
  const drafts: Draft[] = [];
  let count = 0;
  for (const { path, request, data: slice } of requests) {
    const recipients = recipientsOf(request.to);
    count += recipients.length;
    // Beyond the limit nothing is built any more, so that a small body cannot become a million drafts.
    if (count > most) continue;
    const data = await inTurns(walkCompact(text, slice, limits.dataBytes), turn);
    const { size } = data;
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
      drafts.push({ id: randomUUIDv7(), to, type: request.type, data: data.text, size, expiresAt, trace });
    }
    if (turn.isOver) await turn.next();
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
    wide: requests.flatMap(wideRecipients),
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
  turn: Turn,
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
    if (turn.isOver) await turn.next();
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

function wideRecipients({ path, request: { to } }: CheckedRequest): BroadcastRecipient[] {
  if (to.topic === undefined && to.everyone === undefined) return [];
  return [{ pointer: pointerTo([...path, 'to']), topic: to.topic }];
}

function expiryOf({ expiresAt, ttlSeconds }: PublishRequest, now: number): number | null {
  if (expiresAt !== undefined) return Date.parse(expiresAt);
  return ttlSeconds === undefined ? null : now + ttlSeconds * 1000;
}
