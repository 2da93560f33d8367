import { createHash, randomUUIDv7 } from 'node:crypto';
import { MOST_NOTIFICATIONS_PER_REQUEST, type Config } from '../config.ts';
import { Problem, type Fault } from '../errors.ts';
import type { Topic, UserId } from '../identifiers.ts';
import { parseBody, pointerTo, type JsonBody } from '../json-body.ts';
import type { Limits } from '../limits.ts';
import type { Draft, Recipient } from '../log/notification.ts';
import { compact, elements, members, type Slice } from '../raw-json.ts';
import { batchSchema, publishSchema, type PublishRequest } from './publish.schema.ts';

export type PublishRoute = 'single' | 'batch';

/** A publish request that has the right shape. Whether limits and expiry let it pass is a second question: a known key is answered without it. */
export interface ReadPublication {
  readonly drafts: readonly Draft[];
  /** Set when a single publish named `users`: they are part of its answer. */
  readonly users: readonly UserId[] | undefined;
  readonly refusal: Problem | undefined;
  /** What is addressed to more than a user, by the JSON pointer to its `to`. */
  readonly wide: readonly WideRecipient[];
}

export interface WideRecipient {
  readonly pointer: string;
  /** Undefined: everyone. */
  readonly topic: Topic | undefined;
}

interface Item {
  readonly path: readonly PropertyKey[];
  readonly request: PublishRequest;
  readonly data: Slice;
}

/**
 * Reads the body of a publish.
 * @throws Problem `validation_failed` with a pointer for every fault of shape
 */
export function readPublication(
  route: PublishRoute,
  body: JsonBody,
  trace: string | null,
  now: number,
  config: Pick<Config, 'MAX_NOTIFICATIONS_PER_REQUEST' | 'MAX_DATA_DEPTH'>,
  limits: Pick<Limits, 'dataBytes' | 'burst'>,
): ReadPublication {
  // More than the burst would never pass, however long its publisher waited.
  const most = Math.min(config.MAX_NOTIFICATIONS_PER_REQUEST, limits.burst);
  const asked = countAsked(route, body.value);
  if (asked > MOST_NOTIFICATIONS_PER_REQUEST) {
    throw new Problem('validation_failed', 'The request is over a limit.', {
      errors: [tooMany(route, asked, most)],
    });
  }
  const items =
    route === 'single' ? [readItem(body, parseBody(publishSchema, body), [], 0)] : readBatch(body);
  const faults: Fault[] = [];
  const drafts: Draft[] = [];
  let count = 0;
  for (const { path, request, data: slice } of items) {
    const recipients = recipientsOf(request.to);
    count += recipients.length;
    // Beyond the limit nothing is built any more, so that a small body cannot become a million drafts.
    if (count > most) continue;
    const data = compact(body.text, slice);
    const size = Buffer.byteLength(data.text);
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
    if (expiresAt !== null && expiresAt <= now) faults.push(fault(path, 'expiresAt', 'is in the past'));
    for (const to of recipients) {
      drafts.push({ id: randomUUIDv7(), to, type: request.type, data: data.text, size, expiresAt, trace });
    }
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
    users: route === 'single' ? items[0]?.request.to.users : undefined,
    refusal,
    wide: items.flatMap(wideRecipients),
  };
}

/** What a key stands for: the route and the exact bytes. */
export function fingerprintOf(route: PublishRoute, bytes: Buffer): Buffer {
  return createHash('sha256').update(route).update('\0').update(bytes).digest();
}

function readBatch(body: JsonBody): Item[] {
  const { notifications } = parseBody(batchSchema, body);
  const list = uniqueMembers(body, [], 0).get('notifications');
  const slices = list === undefined ? [] : elements(body.text, list.start);
  return notifications.flatMap((request, index) => {
    const slice = slices[index];
    return slice === undefined ? [] : [readItem(body, request, ['notifications', index], slice.start)];
  });
}

function readItem(body: JsonBody, request: PublishRequest, path: readonly PropertyKey[], at: number): Item {
  const own = uniqueMembers(body, path, at);
  const to = own.get('to');
  if (to !== undefined) uniqueMembers(body, [...path, 'to'], to.start);
  const data = own.get('data');
  if (data === undefined) throw refuse(path, 'data', 'is required');
  return { path, request, data };
}

/** JSON.parse keeps the last of two members with one name, other readers the first: in the envelope there are no doubles. */
function uniqueMembers(body: JsonBody, path: readonly PropertyKey[], at: number): Map<string, Slice> {
  const found = new Map<string, Slice>();
  for (const { name, value } of members(body.text, at)) {
    if (found.has(name)) throw refuse(path, name, 'stands here twice');
    found.set(name, value);
  }
  return found;
}

const fault = (path: readonly PropertyKey[], name: string, detail: string): Fault => ({
  pointer: pointerTo([...path, name]),
  detail,
});

const refuse = (path: readonly PropertyKey[], name: string, detail: string) =>
  new Problem('validation_failed', 'The body is not valid.', { errors: [fault(path, name, detail)] });

const tooMany = (route: PublishRoute, count: number, most: number): Fault => ({
  pointer: route === 'batch' ? '/notifications' : '/to/users',
  detail: `makes ${count} notifications; at most ${most} per request are allowed`,
});

/** How many notifications a body asks for, as far as it has the right shape: checking millions one by one would hold up everybody. */
export function countAsked(route: PublishRoute, value: unknown): number {
  if (route === 'single') return countRecipients(value);
  if (!isObject(value) || !Array.isArray(value['notifications'])) return 0;
  return value['notifications'].reduce<number>((sum, item) => sum + countRecipients(item), 0);
}

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

function wideRecipients({ path, request: { to } }: Item): WideRecipient[] {
  if (to.topic === undefined && to.everyone === undefined) return [];
  return [{ pointer: pointerTo([...path, 'to']), topic: to.topic }];
}

function expiryOf({ expiresAt, ttlSeconds }: PublishRequest, now: number): number | null {
  if (expiresAt !== undefined) return Date.parse(expiresAt);
  return ttlSeconds === undefined ? null : now + ttlSeconds * 1000;
}
