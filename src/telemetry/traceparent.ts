/** W3C Trace Context, §3.2.2: version, trace-id, parent-id, flags. Version 00 ends there; a later one may go on after a dash. */
const TRACEPARENT = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/;

/** The longest that is kept: a later version may be longer than the 55 characters of version 00. */
const MAX_LENGTH = 128;

export interface Traceparent {
  /** The whole header, as it came. */
  readonly header: string;
  /** 32 hexadecimal digits. */
  readonly traceId: string;
}

/** Reads a `traceparent` header. A malformed one counts as absent, as the standard asks. */
export function parseTraceparent(header: string | string[] | undefined): Traceparent | undefined {
  if (typeof header !== 'string' || header.length > MAX_LENGTH) return undefined;
  const [, version, traceId, rest] = TRACEPARENT.exec(header) ?? [];
  if (traceId === undefined || (version === '00' && rest !== undefined)) return undefined;
  return { header, traceId };
}
