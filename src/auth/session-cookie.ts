import type { Config } from '../core/config.ts';
import { tokenInvalid } from './bearer.ts';

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
  const found = rawHeaders
    .filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]?.toLowerCase() === 'cookie')
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
