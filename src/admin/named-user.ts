import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import { userIdSchema, type UserId } from '../core/identifiers.ts';
import { parseQuery, refuseQuery } from '../http/json-body.ts';
import { parseId } from './path-id.ts';

/** The query of routes that name a user in it. */
export const namedUserSchema = z.strictObject({ user: userIdSchema });

/**
 * The user that a request names in its path (`/v1/users/{id}/data`), or in its query (`/v1/users/data?user=`): a path can carry
 * neither `.` nor `..`, also not encoded, since clients take them for a step in it (WHATWG URL, "path state"), nor every
 * id of full length.
 *
 * @throws Problem `not_found`, `validation_failed`
 */
export function namedUser({ params, query }: FastifyRequest): UserId {
  if (typeof params !== 'object' || params === null || !('id' in params))
    return parseQuery(namedUserSchema, query).user;
  refuseQuery(query);
  return parseId(userIdSchema, params.id, 'user');
}
