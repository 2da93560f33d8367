import type { Config } from '../core/config.ts';
import { Problem, type Fault } from '../core/errors.ts';
import { pointerTo } from '../http/json-body.ts';
import {
  contradictionsIn,
  definitionOf,
  type IssuerDefinition,
  type IssuerPatch,
  type IssuerRegistration,
} from './registration.schema.ts';
import { SecretSeal } from './secrets.ts';

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
