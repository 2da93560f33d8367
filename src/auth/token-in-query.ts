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
