import { Problem, type Fault } from '../core/errors.ts';

/**
 * Longest token that is looked at. Node refuses more than 16 KiB of headers altogether and common proxies more than
 * 8 KiB in one line, so a longer token would not arrive everywhere; and what is never parsed costs nothing.
 */
const MAX_TOKEN_LENGTH = 8 * 1024;

const REALM = 'Bearer realm="tidings"';

/** RFC 6750 §2.1; the name of a scheme is case-insensitive (RFC 9110 §11.1). */
const CREDENTIALS = /^bearer +([A-Za-z0-9\-._~+/]+=*)$/i;

/** RFC 6750 §3: a caller who sent no token learns the scheme and no error code. */
export function tokenMissing(): Problem {
  return new Problem('token_missing', 'The request carries no bearer token.', {
    headers: { 'www-authenticate': REALM },
  });
}

/** @param reason a sentence that names the failed check, in ASCII without quotes and without anything from the token. */
export function tokenInvalid(reason: string, cause?: unknown): Problem {
  return new Problem('token_invalid', reason, {
    headers: { 'www-authenticate': `${REALM}, error="invalid_token", error_description="${reason}"` },
    cause,
  });
}

/** @param reason a sentence in ASCII without quotes and without anything from the ticket. */
export function ticketInvalid(reason: string): Problem {
  return new Problem('ticket_invalid', reason, { headers: { 'www-authenticate': REALM } });
}

/** RFC 6750 §3.1: more than one way of sending a token. */
export function credentialsConflict(): Problem {
  return new Problem(
    'credentials_conflict',
    'The credentials of the request are of different users or tenants.',
    {
      headers: { 'www-authenticate': `${REALM}, error="invalid_request"` },
    },
  );
}

/** @param scopes any one of them would do. @param errors what needs it, if not the whole request. */
export function scopeMissing(scopes: readonly string[], errors?: Fault[]): Problem {
  const needed = scopes.length === 1 ? `the scope ${scopes[0]}` : `one of the scopes ${scopes.join(', ')}`;
  return new Problem('scope_missing', `This takes a token with ${needed}.`, {
    headers: { 'www-authenticate': `${REALM}, error="insufficient_scope", scope="${scopes.join(' ')}"` },
    ...(errors === undefined ? {} : { errors }),
  });
}

export function tokenInQuery(name: string): Problem {
  return new Problem('token_in_query', `The query parameter ${name} carries a token.`, {
    headers: { 'www-authenticate': `${REALM}, error="invalid_request"` },
  });
}

/**
 * The token of a request, from its raw headers (name, value, name, value …): the parsed ones keep only the first
 * `Authorization`, and two of them are two answers to the question who is calling. Undefined: there is none, or another
 * scheme, whose caller has to learn which one is understood.
 *
 * @throws Problem `token_invalid`
 */
export function bearerToken(rawHeaders: readonly string[]): string | undefined {
  const values = rawHeaders.filter(
    (_, i) => i % 2 === 1 && rawHeaders[i - 1]?.toLowerCase() === 'authorization',
  );
  const [value] = values;
  if (value === undefined) return undefined;
  if (values.length > 1) throw tokenInvalid('The request carries more than one Authorization header.');
  if (!/^bearer(?: |$)/i.test(value)) return undefined;
  if (value.length > MAX_TOKEN_LENGTH)
    throw tokenInvalid(`The token is longer than ${MAX_TOKEN_LENGTH} characters.`);
  const token = CREDENTIALS.exec(value)?.[1];
  if (token === undefined) throw tokenInvalid('The Authorization header is not `Bearer` and one token.');
  return token;
}
