import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import { Problem } from '../core/errors.ts';
import { userIdSchema, type UserId } from '../core/identifiers.ts';
import { parseQuery, refuseQuery } from '../http/json-body.ts';
import { DATABASE_PROBLEMS, json, type Answer, type Description } from '../http/description.ts';

/* What the routes of administrators and operators have in common: ids and users, and what is said of them. */

/** An id in a path. What cannot be one is answered as an id that nobody has. Throws Problem `not_found`. */
export function parseId<Schema extends z.ZodType>(
  schema: Schema,
  text: unknown,
  what: string,
): z.infer<Schema> {
  const parsed = schema.safeParse(text);
  if (parsed.success) return parsed.data;
  throw notFound(what);
}

export const notFound = (what: string): Problem => new Problem('not_found', `No ${what} has this id.`);

/** The query of routes that name a user in it. */
export const userQuerySchema = z.strictObject({ user: userIdSchema });

/**
 * The user that a request names in its path (`/v1/users/{id}/data`), or in its query (`/v1/users/data?user=`): a path can carry
 * neither `.` nor `..`, also not encoded, since clients take them for a step in it (WHATWG URL, "path state"), nor every
 * id of full length.
 *
 * @throws Problem `not_found`, `validation_failed`
 */
export function parseUserId({ params, query }: FastifyRequest): UserId {
  if (typeof params !== 'object' || params === null || !('id' in params))
    return parseQuery(userQuerySchema, query).user;
  refuseQuery(query);
  return parseId(userIdSchema, params.id, 'user');
}

/** A time in an answer, where it is still a Date. */
export const time = z.iso.datetime();

/** The answer of a list, by an example of its items. */
export const page = (schema: z.ZodType, ...items: readonly unknown[]): Answer =>
  json(200, 'One page.', schema, { page: { summary: 'A page', value: { items, nextCursor: null } } });

export const DONE: Answer = {
  status: 204,
  description: 'It is stored and counts on this node; on the others within a second.',
};

export const COMMON = {
  tag: 'Administration',
  problems: [...DATABASE_PROBLEMS, 'keys_unavailable'],
} as const satisfies Partial<Description>;
export const WITH_ID = { ...COMMON, problems: [...COMMON.problems, 'not_found'] } as const;

export const EFFECT =
  'Counts on the node that answers as soon as it answers, on the others within a second, and is recorded in the audit log.';
export const PATCHING =
  'A member that is absent stays as it is; null takes its value away. What changes nothing is not recorded.';
