import { z } from 'zod';
import type { Config } from '../config.ts';
import { deviceIdSchema, tenantIdSchema, topicSchema, userIdSchema } from '../identifiers.ts';
import type { Principal } from './principal.ts';

/** What a token is measured against. */
export type TokenRules = Pick<
  Config,
  'JWT_ISSUER' | 'JWT_AUDIENCE' | 'JWT_CLOCK_TOLERANCE_SECONDS' | 'MAX_TOPICS_PER_TOKEN'
>;

/** A principal, or the sentence that says which check failed (ASCII, without anything from the token). */
export type Verdict =
  | { readonly principal: Principal; readonly refused?: never }
  | { readonly principal?: never; readonly refused: string };

/** The last second that RFC 3339 can write. A later `exp` is a mistake, and would make dates and timers that cannot exist. */
const LAST_SECOND = 253_402_300_799;

const claimsSchema = z.object({
  iss: z.string(),
  aud: z.union([z.string(), z.array(z.string())]),
  exp: z.number().max(LAST_SECOND),
  nbf: z.number().optional(),
  iat: z.number().optional(),
  tenant_id: tenantIdSchema,
  sub: userIdSchema,
  scope: z.string().optional(),
  topics: z.array(topicSchema).optional(),
  device: deviceIdSchema.optional(),
});

/** What each claim has to be, said when it is not, or is missing though it is required. */
const REQUIREMENTS: Record<keyof z.infer<typeof claimsSchema>, string> = {
  iss: 'has to be the issuer that this service trusts',
  aud: 'has to be, or to contain, the audience of this service',
  exp: 'has to be the end of the token in seconds since 1970',
  nbf: 'has to be a number of seconds since 1970',
  iat: 'has to be a number of seconds since 1970',
  tenant_id: 'has to be a tenant of 1 to 64 characters of A-Za-z0-9._-',
  sub: 'has to be a subject of 1 to 256 characters without controls',
  scope: 'has to be a string of scopes separated by spaces',
  topics: 'has to be a list of topics of 1 to 256 characters without controls, each once',
  device: 'has to be a device of 1 to 64 characters of A-Za-z0-9._-',
};

/**
 * Turns the payload of a token whose signature is good into the caller it stands for. Everything is checked here,
 * because the verifying library lets pass: no `exp`, a `sub` of any type or none, an `exp` beyond all calendars.
 *
 * @param now ms since 1970
 */
export function readClaims(payload: unknown, rules: TokenRules, now: number): Verdict {
  const parsed = claimsSchema.safeParse(payload);
  if (!parsed.success) return refuse(parsed.error.issues[0]?.path[0]);
  const claims = parsed.data;
  if (claims.iss !== rules.JWT_ISSUER) return refuse('iss');
  if (![claims.aud].flat().includes(rules.JWT_AUDIENCE)) return refuse('aud');

  const seconds = now / 1000;
  if (claims.exp + rules.JWT_CLOCK_TOLERANCE_SECONDS <= seconds) return { refused: 'The token has expired.' };
  if (claims.nbf !== undefined && claims.nbf - rules.JWT_CLOCK_TOLERANCE_SECONDS > seconds) {
    return { refused: 'The token is not valid yet.' };
  }

  const topics = claims.topics ?? [];
  if (topics.length > rules.MAX_TOPICS_PER_TOKEN) {
    return { refused: `The token carries more than ${rules.MAX_TOPICS_PER_TOKEN} topics.` };
  }
  if (new Set(topics).size < topics.length) return refuse('topics');

  return {
    principal: {
      tenantId: claims.tenant_id,
      subject: claims.sub,
      scopes: new Set((claims.scope ?? '').split(' ').filter((scope) => scope !== '')),
      topics,
      device: claims.device,
      expiresAt: Math.floor(claims.exp * 1000),
    },
  };
}

function refuse(claim: PropertyKey | undefined): Verdict {
  const requirement = Object.entries(REQUIREMENTS).find(([name]) => name === claim)?.[1];
  if (requirement === undefined) return { refused: 'The payload of the token is not a JSON object.' };
  return { refused: `The claim \`${String(claim)}\` ${requirement}.` };
}
