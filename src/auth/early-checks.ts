import type { FastifyInstance } from 'fastify';
import { Problem } from '../core/errors.ts';
import { carriesBody } from '../http/json-body.ts';
import { tokenInQuery } from './bearer.ts';
import type { TokenGuard } from './token.guard.ts';
import { tokenParameter } from './token-in-query.ts';

/**
 * What is checked before a body is read, on every path, also on those that do not exist. It comes after the
 * `onRequest` hooks, so that a browser may read the refusal (CORS) and the log knows its request id.
 */
export function addEarlyChecks(fastify: FastifyInstance, guard: TokenGuard): void {
  fastify.addHook('preParsing', async (request, reply) => {
    // RFC 9112 § 3.2.
    if (request.headers.host === undefined && request.raw.httpVersion === '1.1')
      throw new Problem('malformed_request', 'The request has no Host.');
    const name = tokenParameter(request.url);
    if (name !== undefined) throw tokenInQuery(name);
    // Nest asks its guards when the body has been read and parsed. Of whom may not send it, it is not read at all.
    if (carriesBody(request)) await guard.admit(request, reply);
  });
}
