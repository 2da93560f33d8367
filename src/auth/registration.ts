import { z } from 'zod';
import { type Config, isLoopback } from '../core/config.ts';
import { Problem, type Fault } from '../core/errors.ts';
import { pointerTo } from '../http/json-body.ts';
import { SERVICE_SCOPES, type ServiceScope, tenantIdSchema } from '../core/identifiers.ts';
import { SecretSeal } from './secrets.ts';
import { ALGORITHMS, DEFAULT_CLAIMS, type Algorithm } from './issuer.ts';
import { fits, keptKeySetSchema, publicKeySetSchema } from './keys.ts';

/* What may be registered as an issuer: one truth for the API, the command line and the reference. */

/** What an application's backend needs. More has to be granted by name. */
const DEFAULT_SCOPES: readonly ServiceScope[] = ['notifications:publish', 'history:read'];

const MOST_TENANTS = 1_000;
const MOST_NAMES = 20;

const line = (what: string, most: number) =>
  z
    .string()
    .min(1, `${what} has at least one character`)
    .max(most, `${what} has at most ${most} characters`)
    .refine((text) => text.isWellFormed() && !/\p{Cc}/u.test(text), `${what} has no control characters`);

const severalOf = <Item extends z.ZodType>(item: Item, least: number, most: number) =>
  z
    .array(item)
    .min(least, 'holds at least one')
    .max(most, `holds at most ${most}`)
    .refine((items) => new Set(items).size === items.length, 'names one of them twice');

const claimNameSchema = line('the name of a claim', 256)
  .refine(
    (name) => !name.startsWith('/') || !/~(?![01])/.test(name),
    'begins with a slash and is no JSON pointer (RFC 6901): `~` is written `~0` there',
  )
  .meta({ description: 'A top-level claim, or a JSON pointer (RFC 6901) to a nested one.' });

const claimsSchema = z.strictObject({
  tenant: claimNameSchema.optional(),
  user: claimNameSchema.optional(),
  topics: claimNameSchema.optional(),
  device: claimNameSchema.optional(),
  scopes: severalOf(claimNameSchema, 1, MOST_NAMES).optional(),
});

const jwksUrlSchema = z
  .string()
  .max(2_048)
  .superRefine((text, context) => {
    const message = faultOfKeySetUrl(text);
    if (message !== undefined) context.addIssue({ code: 'custom', message });
  })
  .meta({ format: 'uri', description: 'The JWK Set of the issuer: https, or http on loopback.' });

/** Why keys are not fetched from there; undefined if they may be. */
function faultOfKeySetUrl(text: string): string | undefined {
  const url = /^https?:\/\//i.test(text) ? URL.parse(text) : null;
  if (url === null) return 'is an https URL';
  const { protocol, hostname: host, username, password } = url;
  if (protocol !== 'https:' && !isLoopback(host))
    return 'is https, or http on loopback: keys have to come from the issuer itself';
  if (username !== '' || password !== '') return 'carries no user and no password';
  if (text.includes('#')) return 'carries no fragment';
  return undefined;
}

const members = {
  iss: line('an issuer', 1_024).meta({ description: 'The `iss` of its tokens, compared byte by byte.' }),
  name: line('a name', 256),
  jwksUrl: jwksUrlSchema,
  keys: publicKeySetSchema.meta({ description: 'A JWK Set (RFC 7517) of public keys.' }),
  secret: z
    .string()
    .max(4_096, 'has at most 4096 characters')
    .refine(
      (text) => Buffer.byteLength(text) >= 32 && text.isWellFormed(),
      'has at least 32 bytes (RFC 7518 §3.2)',
    )
    .meta({ writeOnly: true, description: 'For HS256: at least 32 bytes. Never shown again.' }),
  algorithms: severalOf(z.enum(ALGORITHMS), 1, ALGORITHMS.length).meta({
    description: 'Default: RS256 with jwksUrl, HS256 with secret; required with keys.',
  }),
  audiences: severalOf(line('an audience', 1_024), 1, MOST_NAMES).meta({
    description: 'One of these has to be in the `aud` of its tokens.',
  }),
  tenant: tenantIdSchema.meta({ description: 'The one tenant of all its tokens, whatever they claim.' }),
  tenants: severalOf(tenantIdSchema, 1, MOST_TENANTS).meta({
    description: 'The tenants that its tokens may name.',
  }),
  claims: claimsSchema,
  scopes: severalOf(z.enum(SERVICE_SCOPES), 0, SERVICE_SCOPES.length).meta({
    description: 'The service scopes that its tokens may carry; a token with another one is refused.',
    default: DEFAULT_SCOPES,
  }),
  requireAtJwt: z
    .boolean()
    .meta({ description: 'Whether its tokens must be of type `at+jwt` (RFC 9068).', default: false }),
  status: z.enum(['active', 'disabled']),
};

/** POST /v1/issuers. */
export const issuerRegistrationSchema = z
  .strictObject({
    iss: members.iss,
    name: members.name.optional(),
    jwksUrl: members.jwksUrl.optional(),
    keys: members.keys.optional(),
    secret: members.secret.optional(),
    algorithms: members.algorithms.optional(),
    audiences: members.audiences,
    tenant: members.tenant.optional(),
    tenants: members.tenants.optional(),
    claims: members.claims.optional(),
    scopes: members.scopes.optional(),
    requireAtJwt: members.requireAtJwt.optional(),
    status: members.status.optional(),
  })
  .superRefine((registration, context) => {
    for (const { path, message } of contradictionsIn(registration)) {
      context.addIssue({ code: 'custom', path, message });
    }
  })
  .meta({ id: 'IssuerRegistration' });
export type IssuerRegistration = z.infer<typeof issuerRegistrationSchema>;

/** PATCH /v1/issuers/{id}: each member replaces that of the registration, null takes it away (RFC 7396). */
export const issuerPatchSchema = z
  .strictObject({
    iss: members.iss.optional(),
    name: members.name.nullable().optional(),
    jwksUrl: members.jwksUrl.nullable().optional(),
    keys: members.keys.nullable().optional(),
    secret: members.secret.nullable().optional(),
    algorithms: members.algorithms.nullable().optional(),
    audiences: members.audiences.optional(),
    tenant: members.tenant.nullable().optional(),
    tenants: members.tenants.nullable().optional(),
    claims: members.claims.nullable().optional(),
    scopes: members.scopes.nullable().optional(),
    requireAtJwt: members.requireAtJwt.nullable().optional(),
    status: members.status.optional(),
    revokedBefore: z.iso
      .datetime({ offset: true, error: 'is a time as RFC 3339 has it, such as 2026-12-01T00:00:00.000Z' })
      .refine((time) => Date.parse(time) >= 0, 'is not before 1970')
      .refine((time) => Date.parse(time) <= Date.now(), 'is not in the future')
      .nullable()
      .optional()
      .meta({ description: 'Tokens issued before it, or without `iat`, are refused.' }),
  })
  .meta({ id: 'IssuerPatch' });
export type IssuerPatch = z.infer<typeof issuerPatchSchema>;

/** What is stored of a registration in one piece, defaults filled in. Without `jwksUrl` and `keys` there is a sealed secret. */
export const issuerDefinitionSchema = z.object({
  jwksUrl: z.string().optional(),
  keys: keptKeySetSchema.optional(),
  algorithms: z.array(z.enum(ALGORITHMS)),
  audiences: z.array(z.string()),
  tenant: tenantIdSchema.optional(),
  tenants: z.array(tenantIdSchema).optional(),
  claims: claimsSchema.required(),
  scopes: z.array(z.enum(SERVICE_SCOPES)),
  requireAtJwt: z.boolean(),
});
export type IssuerDefinition = z.infer<typeof issuerDefinitionSchema>;

type Parts = Omit<IssuerRegistration, 'iss' | 'audiences'>;

/** The definition that a registration without contradictions makes. */
function definitionOf(registration: Parts & Pick<IssuerRegistration, 'audiences'>): IssuerDefinition {
  return issuerDefinitionSchema.parse({
    ...registration,
    algorithms: algorithmsOf(registration),
    claims: { ...DEFAULT_CLAIMS, ...registration.claims },
    scopes: registration.scopes ?? DEFAULT_SCOPES,
    requireAtJwt: registration.requireAtJwt ?? false,
  });
}

function algorithmsOf({ algorithms, secret, keys }: Parts): readonly Algorithm[] | undefined {
  if (algorithms !== undefined) return algorithms;
  if (secret !== undefined) return ['HS256'];
  return keys === undefined ? ['RS256'] : undefined;
}

/** What is wrong with a registration of which each member is right by itself. */
function contradictionsIn(parts: Parts): { path: (string | number)[]; message: string }[] {
  const { jwksUrl, keys, secret, tenant, tenants } = parts;
  const found: { path: (string | number)[]; message: string }[] = [];
  const sources = Object.entries({ jwksUrl, keys, secret }).filter(([, value]) => value !== undefined);
  if (sources.length !== 1) {
    found.push({
      path: [sources[1]?.[0] ?? 'jwksUrl'],
      message: 'exactly one of jwksUrl, keys and secret is sent',
    });
  }
  if ((tenant === undefined) === (tenants === undefined)) {
    found.push({ path: ['tenant'], message: 'exactly one of tenant and tenants is sent' });
  }
  const algorithms = algorithmsOf(parts);
  if (algorithms === undefined) {
    found.push({ path: ['algorithms'], message: 'is required with keys' });
  } else if (secret === undefined ? algorithms.includes('HS256') : algorithms.join() !== 'HS256') {
    // RFC 8725 §2.1: whoever may present a public key as a secret signs as he likes.
    found.push({
      path: ['algorithms'],
      message: 'is HS256 alone with a secret, and never HS256 without one',
    });
  } else {
    (keys?.keys ?? []).forEach((key, index) => {
      if (fits(key, algorithms)) return;
      found.push({ path: ['keys', 'keys', index], message: 'is of no use for any of the algorithms' });
    });
  }
  return found;
}

/** A registration as it is stored. */
export interface IssuerState {
  readonly iss: string;
  readonly name: string | null;
  readonly status: 'active' | 'disabled';
  readonly definition: IssuerDefinition;
  /** Only in place of `jwksUrl` and `keys`. */
  readonly sealedSecret: Buffer | null;
  readonly revokedBefore: Date | null;
}

/** What the settings say about registrations. */
export type RegistrationRules = Pick<Config, 'JWT_ISSUER' | 'ISSUER_SECRETS_KEY'>;

/**
 * What is stored of a new issuer.
 *
 * @param id a UUID; a secret opens under this id only.
 * @throws Problem `issuer_exists` if it is the issuer of the settings, `validation_failed` if its secret cannot be kept.
 */
export function newIssuer(
  id: string,
  registration: IssuerRegistration,
  rules: RegistrationRules,
): IssuerState {
  refuseEnvironment(registration.iss, rules);
  const { iss, name = null, status = 'active', secret } = registration;
  return {
    iss,
    name,
    status,
    definition: definitionOf(registration),
    sealedSecret: secret === undefined ? null : seal(id, secret, rules),
    revokedBefore: null,
  };
}

/**
 * What is stored of an issuer once it was changed.
 *
 * @throws Problem as `newIssuer`, and `validation_failed` if the outcome is no valid registration.
 */
export function patchedIssuer(
  current: IssuerState & { readonly id: string },
  patch: IssuerPatch,
  rules: RegistrationRules,
): IssuerState {
  const { iss = current.iss, name = current.name, status = current.status, secret } = patch;
  refuseEnvironment(iss, rules);
  const before = current.definition;
  const merged = {
    jwksUrl: replaced(before.jwksUrl, patch.jwksUrl),
    keys: replaced(before.keys, patch.keys),
    // That there is one is all that counts here.
    secret: replaced(current.sealedSecret === null ? undefined : 'kept', secret),
    algorithms: replaced(before.algorithms, patch.algorithms),
    audiences: patch.audiences ?? before.audiences,
    tenant: replaced(before.tenant, patch.tenant),
    tenants: replaced(before.tenants, patch.tenants),
    claims: replaced(before.claims, patch.claims),
    scopes: replaced(before.scopes, patch.scopes),
    requireAtJwt: replaced(before.requireAtJwt, patch.requireAtJwt),
  };
  const faults = contradictionsIn(merged);
  if (faults.length > 0) {
    throw invalid(faults.map(({ path, message }) => ({ pointer: pointerTo(path), detail: message })));
  }
  return {
    iss,
    name,
    status,
    definition: definitionOf(merged),
    sealedSecret:
      typeof secret === 'string'
        ? seal(current.id, secret, rules)
        : secret === null
          ? null
          : current.sealedSecret,
    revokedBefore: dateOf(patch.revokedBefore, current.revokedBefore),
  };
}

/** Left out, a member stays; null takes it away. */
function replaced<Value>(before: Value | undefined, sent: Value | null | undefined): Value | undefined {
  return sent === undefined ? before : (sent ?? undefined);
}

function dateOf(sent: string | null | undefined, before: Date | null): Date | null {
  if (sent === undefined) return before;
  return sent === null ? null : new Date(sent);
}

function refuseEnvironment(iss: string, { JWT_ISSUER }: RegistrationRules): void {
  if (iss === JWT_ISSUER)
    throw new Problem('issuer_exists', 'This is the issuer that the settings name (JWT_ISSUER).');
}

function seal(id: string, secret: string, { ISSUER_SECRETS_KEY: key }: RegistrationRules): Buffer {
  if (key !== undefined) return new SecretSeal(key).seal(id, secret);
  const detail =
    'cannot be kept: this service has no ISSUER_SECRETS_KEY to seal it with. Set one, or register jwksUrl or keys.';
  throw invalid([{ pointer: '/secret', detail }]);
}

function invalid(errors: Fault[]): Problem {
  return new Problem('validation_failed', 'The registration is not valid.', { errors });
}
