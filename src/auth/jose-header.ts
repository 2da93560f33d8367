import { z } from 'zod';
import { tokenInvalid } from './bearer.ts';

/** The part of a token's header that this service acts on. `jwk`, `jku`, `x5c` and `x5u` are not: keys never come from a token. */
export interface JoseHeader {
  readonly alg: string;
  readonly kid: string | undefined;
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

/**
 * Reads the protected header of a compact JWS, before its signature is checked.
 *
 * @throws Problem `token_invalid`
 */
export function readHeader(token: string): JoseHeader {
  const parsed = headerSchema.safeParse(decode(token.slice(0, token.indexOf('.'))));
  if (!parsed.success) throw tokenInvalid('The token is not a signed JSON Web Token.');
  const { alg, kid, typ, crit } = parsed.data;
  // RFC 7515 §4.1.11: an extension that must be understood and is not makes the token invalid. None is understood.
  if (crit !== undefined) throw tokenInvalid('The header `crit` names extensions that are not understood.');
  // `application/` may be left out of a media type here (RFC 7515 §4.1.9).
  if (typ !== undefined && !ACCEPTED_TYPES.has(typ.toLowerCase().replace(/^application\//, ''))) {
    throw tokenInvalid('The header `typ` is not that of an access token.');
  }
  return { alg, kid };
}

function decode(part: string): unknown {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
  } catch {
    return undefined;
  }
}
