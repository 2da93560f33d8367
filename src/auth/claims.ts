import { z } from 'zod';
import {
  deviceIdSchema,
  SERVICE_SCOPES,
  type TenantId,
  tenantIdSchema,
  type Topic,
  topicSchema,
  userIdSchema,
} from '../core/identifiers.ts';
import type { ClaimNames, Issuer } from './issuer.ts';
import { isService, type Principal } from '../http/access.ts';
import { elements, members } from '../http/raw-json.ts';
import { tokenInvalid } from './credentials.ts';

/** What a token of an issuer is measured against. */
export type IssuerRules = Pick<Issuer, 'iss' | 'audiences' | 'tenants' | 'claims' | 'scopes'>;

/** What holds for the tokens of every issuer. */
export interface TokenLimits {
  readonly JWT_CLOCK_TOLERANCE_SECONDS: number;
  readonly MAX_TOKEN_LIFETIME_DAYS: number;
  /** Of the tenant, now. */
  readonly topicsPerToken: (tenantId: TenantId) => number;
}

/** A principal, or the sentence that says which check failed (ASCII, without anything from the token). */
type Verdict =
  | { readonly principal: Principal; readonly refused?: never }
  | { readonly principal?: never; readonly refused: string };

/** The last second that RFC 3339 can write. A later `exp` is a mistake, and would make dates and timers that cannot exist. */
const LAST_SECOND = 253_402_300_799;

/** A list, or one text with spaces between its parts, as OAuth writes scopes (RFC 6749 §3.3). */
const words = z.union([z.array(z.string()), z.string().transform(partsOf)]);

function partsOf(text: string): string[] {
  return text.split(' ').filter((part) => part !== '');
}

/** The claims under names of our own; the issuer's registration says what they are called in the token. */
const claimsSchema = z.object({
  iss: z.string(),
  aud: z.union([z.string(), z.array(z.string())]),
  exp: z.number().max(LAST_SECOND),
  nbf: z.number().optional(),
  iat: z.number().optional(),
  jti: z.string().min(1).max(255).optional(),
  tenant: tenantIdSchema.optional(),
  user: userIdSchema,
  scopes: z.array(words),
  topics: words.pipe(z.array(topicSchema)).optional(),
  device: deviceIdSchema.optional(),
});
type Claims = z.infer<typeof claimsSchema>;

/** Of nearly every user: one for all, since principals are kept for as long as streams are open. */
const NO_SCOPES: ReadonlySet<string> = new Set();

/** What each claim has to be, said when it is not, or is missing though it is required. */
const REQUIREMENTS: Record<keyof Claims, string> = {
  iss: 'has to be the issuer that this service trusts',
  aud: 'has to be, or to contain, the audience of this service',
  exp: 'has to be the end of the token in seconds since 1970',
  nbf: 'has to be a number of seconds since 1970',
  iat: 'has to be a number of seconds since 1970',
  jti: 'has to be a text of 1 to 255 characters',
  tenant: 'has to be a tenant of 1 to 64 characters of A-Za-z0-9._-',
  user: 'has to be a subject of 1 to 256 characters without controls',
  scopes: 'has to be scopes, as a list or separated by spaces',
  topics:
    'has to be topics of 1 to 256 characters without controls, each once, as a list or separated by spaces',
  device: 'has to be a device of 1 to 64 characters of A-Za-z0-9._-',
};

/**
 * Turns the payload of a token whose signature is good into the caller it stands for. Everything is checked here,
 * because the verifying library lets pass: no `exp`, a `sub` of any type or none, an `exp` beyond all calendars.
 *
 * @param now ms since 1970
 */
export function readClaims(payload: unknown, issuer: IssuerRules, limits: TokenLimits, now: number): Verdict {
  const refuse = (claim: PropertyKey | undefined) => refusal(claim, issuer.claims);
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) return refuse(undefined);
  const parsed = claimsSchema.safeParse(select(payload, issuer));
  if (!parsed.success) return refuse(parsed.error.issues[0]?.path[0]);
  const claims = parsed.data;
  if (claims.iss !== issuer.iss) return refuse('iss');
  if (![claims.aud].flat().some((audience) => issuer.audiences.includes(audience))) return refuse('aud');

  const untimely = checkTimes(claims, limits, now / 1000);
  if (untimely !== undefined) return { refused: untimely };

  const tenantId = tenantOf(claims.tenant, issuer);
  if (tenantId === 'foreign') return { refused: 'The issuer of the token may not speak for its tenant.' };
  if (tenantId === undefined) return refuse('tenant');

  const topics = claims.topics ?? [];
  const tooMany = tooManyTopics(topics, limits.topicsPerToken(tenantId));
  if (tooMany !== undefined) return { refused: tooMany };
  if (new Set(topics).size < topics.length) return refuse('topics');

  // A scope holds no space (RFC 6749 §3.3). One word of two scopes would be neither, and its service a user.
  const scopes = new Set(claims.scopes.flat().flatMap(partsOf));
  // Leaving the scope out instead would make a user of a service.
  const ungranted = SERVICE_SCOPES.find((scope) => scopes.has(scope) && !issuer.scopes.has(scope));
  if (ungranted !== undefined) {
    return { refused: `The issuer of the token is not registered for the scope ${ungranted}.` };
  }

  return {
    principal: {
      tenantId,
      subject: claims.user,
      scopes: scopes.size === 0 ? NO_SCOPES : scopes,
      topics,
      publishesTo: isService({ scopes }) && claims.topics !== undefined ? new Set(topics) : undefined,
      device: claims.device,
      expiresAt: Math.floor(claims.exp * 1000),
      issuer: claims.iss,
      tokenId: claims.jti,
      issuedAt: claims.iat === undefined ? undefined : Math.floor(claims.iat * 1000),
    },
  };
}

/** Why a token with these topics is refused. */
export const tooManyTopics = (topics: readonly Topic[], most: number): string | undefined =>
  topics.length > most ? `The token carries more than ${most} topics.` : undefined;

function checkTimes({ exp, nbf, iat }: Claims, limits: TokenLimits, seconds: number): string | undefined {
  const tolerance = limits.JWT_CLOCK_TOLERANCE_SECONDS;
  if (exp + tolerance <= seconds) return 'The token has expired.';
  if (nbf !== undefined && nbf - tolerance > seconds) return 'The token is not valid yet.';
  // A token from the future would outlive a revocation of all that was issued until now.
  if (iat !== undefined && iat - tolerance > seconds) return 'The claim `iat` lies in the future.';
  if (exp - (iat ?? seconds) > limits.MAX_TOKEN_LIFETIME_DAYS * 86_400) {
    return `The token is issued for longer than ${limits.MAX_TOKEN_LIFETIME_DAYS} days.`;
  }
  return undefined;
}

/** The registration decides whom an issuer may speak for; the token can only choose among those. */
function tenantOf(claimed: TenantId | undefined, { tenants }: IssuerRules): TenantId | 'foreign' | undefined {
  if (tenants.kind === 'fixed') return tenants.tenantId;
  if (tenants.kind === 'any' || claimed === undefined) return claimed;
  return tenants.tenantIds.has(claimed) ? claimed : 'foreign';
}

function select(payload: object, { claims: names, tenants }: IssuerRules): Record<keyof Claims, unknown> {
  return {
    iss: at(payload, 'iss'),
    aud: at(payload, 'aud'),
    exp: at(payload, 'exp'),
    nbf: at(payload, 'nbf'),
    iat: at(payload, 'iat'),
    jti: at(payload, 'jti'),
    // An issuer of one tenant may use that name for something of its own.
    tenant: tenants.kind === 'fixed' ? undefined : at(payload, names.tenant),
    user: at(payload, names.user),
    scopes: names.scopes.map((name) => at(payload, name)).filter((scopes) => scopes !== undefined),
    topics: at(payload, names.topics),
    device: at(payload, names.device),
  };
}

/** The member that a name, or a JSON pointer (RFC 6901), stands for. Own members only: a claim may be called `constructor`. */
function at(payload: object, name: string): unknown {
  const path = name.startsWith('/')
    ? name
        .slice(1)
        .split('/')
        .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    : [name];
  return path.reduce<unknown>(
    (value, part) =>
      typeof value === 'object' && value !== null
        ? Object.getOwnPropertyDescriptor(value, part)?.value
        : undefined,
    payload,
  );
}

function refusal(claim: PropertyKey | undefined, names: ClaimNames): Verdict {
  const requirement = Object.entries(REQUIREMENTS).find(([name]) => name === claim)?.[1];
  if (requirement === undefined) return { refused: 'The payload of the token is not a JSON object.' };
  const renamed: Readonly<Record<string, string>> = { ...names, scopes: names.scopes.join('` or `') };
  return { refused: `The claim \`${renamed[String(claim)] ?? String(claim)}\` ${requirement}.` };
}

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
