import type { IncomingHttpHeaders } from 'node:http';
import { Problem } from '../core/errors.ts';

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
