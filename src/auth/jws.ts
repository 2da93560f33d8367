import { z } from 'zod';
import { elements, members } from '../http/raw-json.ts';
import { tokenInvalid } from './credentials.ts';

/** The part of a token's header that this service acts on. `jwk`, `jku`, `x5c` and `x5u` are not: keys never come from a token (RFC 8725 §3.10). */
export interface JoseHeader {
  readonly alg: string;
  readonly kid: string | undefined;
  /** Lower case, without `application/`, which may be left out of a media type here (RFC 7515 §4.1.9). */
  readonly typ: string | undefined;
}

const headerSchema = z.object({
  alg: z.string(),
  kid: z.string().optional(),
  typ: z.string().optional(),
  crit: z.unknown().optional(),
});

/**
 * What an access token may call itself: nothing, a plain JWT, or the type of RFC 9068 §4. Any other name is another
 * kind of token by the same issuer (a logout token, a security event, a proof of possession), and accepting one of
 * those as an access token is the confusion that explicit typing is meant to prevent (RFC 8725 §3.11).
 */
const ACCEPTED_TYPES = new Set(['jwt', 'at+jwt']);

/** Deeper nesting than any identity provider's; what walks the claims may then recurse. */
const MAX_DEPTH = 32;

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads the protected header of a compact JWS, before its signature is checked.
 *
 * @throws Problem `token_invalid`
 */
export function readHeader(token: string): JoseHeader {
  const { text, value } = readPart(token.slice(0, token.indexOf('.'))) ?? {};
  const parsed = headerSchema.safeParse(value);
  if (!parsed.success) throw notSigned();
  if (!token.split('.').every(isCanonical)) {
    throw tokenInvalid('The signature or the form of the token is not valid.');
  }
  // RFC 7515 §4: which of two would be meant, another reader may see otherwise.
  if (text !== undefined && hasDoubles(text, 0)) {
    throw tokenInvalid('The header of the token names something twice, or is nested too deeply.');
  }
  const { alg, kid, typ, crit } = parsed.data;
  // RFC 7515 §4.1.11: an extension that must be understood and is not makes the token invalid. None is understood.
  if (crit !== undefined) throw tokenInvalid('The header `crit` names extensions that are not understood.');
  const type = typ?.toLowerCase().replace(/^application\//, '');
  if (type !== undefined && !ACCEPTED_TYPES.has(type)) {
    throw tokenInvalid('The header `typ` is not that of an access token.');
  }
  return { alg, kid, typ: type };
}

const issuerSchema = z.object({ iss: z.string() });

/**
 * The `iss` that a token claims, before its signature is checked: good for choosing whose keys to check it with, and
 * for nothing else.
 *
 * @throws Problem `token_invalid`
 */
export function claimedIssuer(token: string): string {
  const payload = readPart(payloadOf(token))?.value;
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) throw notClaims();
  const parsed = issuerSchema.safeParse(payload);
  if (!parsed.success) throw tokenInvalid('The claim `iss` has to be the issuer that this service trusts.');
  return parsed.data.iss;
}

/**
 * The claims of a token whose signature is good.
 *
 * @throws Problem `token_invalid`
 */
export function readPayload(token: string): unknown {
  const { text, value } = readPart(payloadOf(token)) ?? {};
  if (text === undefined) throw notClaims();
  // RFC 7519 §4 lets a reader refuse doubles or take the last. Another reader of the same token, a gateway, may take the first.
  if (hasDoubles(text, 0)) {
    throw tokenInvalid('The token names a claim twice, or its claims are nested too deeply.');
  }
  return value;
}

function hasDoubles(text: string, depth: number): boolean {
  if (depth > MAX_DEPTH) return true;
  if (text.startsWith('[')) {
    return elements(text).some(({ start, end }) => hasDoubles(text.slice(start, end), depth + 1));
  }
  if (!text.startsWith('{')) return false;
  const found = members(text);
  return (
    new Set(found.map(({ name }) => name)).size < found.length ||
    found.some(({ value }) => hasDoubles(text.slice(value.start, value.end), depth + 1))
  );
}

/** RFC 7515 §2: base64url without padding, spaces or spare bits. Node reads more than that, and a token would have many spellings. */
const isCanonical = (part: string): boolean => Buffer.from(part, 'base64url').toString('base64url') === part;

const payloadOf = (token: string): string => token.split('.', 2)[1] ?? '';

function readPart(part: string): { readonly text: string; readonly value: unknown } | undefined {
  try {
    const text = utf8.decode(Buffer.from(part, 'base64url')).trim();
    return { text, value: JSON.parse(text) };
  } catch {
    return undefined;
  }
}

const notSigned = () => tokenInvalid('The token is not a signed JSON Web Token.');
const notClaims = () => tokenInvalid('The payload of the token is not a JSON object.');
