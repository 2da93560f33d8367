import { z } from 'zod';
import { isLoopback } from '../core/config.ts';

const EXAMPLE = 'https://app.example.com';

/** An origin exactly as browsers put it into `Origin` (RFC 6454 §6.2): it is compared as text, so no other spelling would ever match. */
export const originSchema = z
  .string()
  .max(300)
  .superRefine((text, context) => {
    const message = faultOfOrigin(text);
    if (message !== undefined) context.addIssue({ code: 'custom', message });
  })
  .meta({
    description: `An origin as browsers send it: scheme, host and, if it is not the usual one, port. https, or http on loopback. For example \`${EXAMPLE}\`.`,
  });

/** What is wrong with it; undefined if nothing is. */
function faultOfOrigin(text: string): string | undefined {
  if (text.includes('*')) return 'names one origin, without a wildcard; list each of them';
  // Sandboxed pages, files and redirects of anybody send this one.
  if (text === 'null') return 'is an origin of nobody in particular and cannot be allowed';
  const url = URL.parse(text);
  if (url === null) return `is an origin such as ${EXAMPLE}`;
  const { protocol, hostname: host, origin } = url;
  if (protocol !== 'https:' && !(protocol === 'http:' && isLoopback(host)))
    return 'begins with https://, or with http:// for localhost, 127.0.0.1 or [::1]';
  if (origin !== text) return `is not as browsers send it; they write ${origin}`;
  return undefined;
}
