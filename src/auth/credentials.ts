import { type Fault, Problem } from '../core/errors.ts';
import type { Config } from '../core/config.ts';
import type { IncomingHttpHeaders } from 'node:http';
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
  const values = valuesOf('authorization', rawHeaders);
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

/** Every value of a header. @param name in lower case */
function valuesOf(name: string, rawHeaders: readonly string[]): string[] {
  const values: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2)
    if (rawHeaders[i]?.length === name.length && rawHeaders[i]?.toLowerCase() === name)
      values.push(rawHeaders[i + 1] ?? '');
  return values;
}

/**
 * A browser takes a cookie of this prefix only with `Secure`, `Path=/` and without `Domain`, so that neither another host of
 * the same site nor plain http can plant one (RFC 6265bis §4.1.3.2).
 */
export const SESSION_COOKIE = '__Host-tidings';

/** What every browser keeps of a cookie, in bytes: name, value and attributes together (RFC 6265 §6.1). */
export const MOST_COOKIE_BYTES = 4096;

type SameSite = Config['COOKIE_SAME_SITE'];

/**
 * The token in the session cookie of a request, from its raw headers (name, value, name, value …): the parsed ones
 * join what came in several lines. Two cookies of the name are two answers to the question who is calling, and at
 * most one of them was set by this host.
 *
 * @throws Problem `token_invalid`
 */
export function sessionToken(rawHeaders: readonly string[]): string | undefined {
  const prefix = `${SESSION_COOKIE}=`;
  const found = valuesOf('cookie', rawHeaders)
    .flatMap((line) => line.split(';'))
    .map((pair) => pair.trim())
    .filter((pair) => pair.startsWith(prefix));
  if (found.length > 1) throw tokenInvalid('The request carries more than one session cookie.');
  return found[0]?.slice(prefix.length);
}

/** The value of `Set-Cookie` that keeps a token in the browser until it ends. */
export function setSession(token: string, maxAgeSeconds: number, sameSite: SameSite): string {
  return `${SESSION_COOKIE}=${token}; Max-Age=${maxAgeSeconds}${attributes(sameSite)}`;
}

/** The value of `Set-Cookie` that removes the session cookie. */
export const endSession = (sameSite: SameSite): string =>
  `${SESSION_COOKIE}=; Max-Age=0${attributes(sameSite)}`;

/** `Partitioned`: browsers that block third-party cookies keep those that belong to one embedding site only. */
function attributes(sameSite: SameSite): string {
  const names = { strict: 'Strict', lax: 'Lax', none: 'None; Partitioned' } as const;
  return `; Path=/; Secure; HttpOnly; SameSite=${names[sameSite]}`;
}

/**
 * Whether a browser says that the page behind a request may use the session cookie: a page of this origin, or one of an
 * origin that `allows` lets in.
 *
 * A browser adds a cookie to requests that other pages make. `SameSite` (RFC 6265bis §8.8.2) keeps other sites out, but
 * not other hosts of this site, nor anyone with `none`. So the request has to say where it comes from, in headers that
 * scripts cannot set: `Sec-Fetch-Site` (W3C Fetch Metadata) or `Origin` (RFC 6454 §7). `same-site` is not enough, and
 * neither is `none`, which is a person at the address bar: no person opens a stream there. A request without both was
 * made by no browser of today, and what is no browser can send its token in `Authorization`.
 *
 * GET is no exception. CORS keeps a page from reading the answer, not from asking: a stream that is opened moves the
 * cursor of a device, and `lastEventId` confirms.
 *
 * `Origin: null` is every sandboxed page of the world at once. Doubled headers come joined, and match nothing.
 */
export function mayUseCookie(headers: IncomingHttpHeaders, allows: (origin: string) => boolean): boolean {
  const { origin } = headers;
  if (headers['sec-fetch-site'] === 'same-origin') return true;
  return origin !== undefined && origin !== 'null' && allows(origin);
}

/** Whether a browser made the request: it says where a request comes from on everything but a plain GET. */
export const comesFromPage = (headers: IncomingHttpHeaders): boolean =>
  headers.origin !== undefined || headers['sec-fetch-site'] !== undefined;

export function originRefused(): Problem {
  return new Problem(
    'origin_refused',
    'The request does not come from a page of this host, nor from an origin that the tenant allows.',
  );
}

/** The names under which callers are known to put tokens into URLs. */
const NAMES = new Set(['access_token', 'token', 'jwt']);

/** The first query parameter that is named like a token, however its name is spelled or encoded. */
export function tokenParameter(url: string): string | undefined {
  const start = url.indexOf('?');
  if (start === -1) return undefined;
  return [...new URLSearchParams(url.slice(start)).keys()]
    .map((name) => name.toLowerCase())
    .find((name) => NAMES.has(name));
}
