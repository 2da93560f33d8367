import { randomUUIDv7 } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { EntityManager } from 'typeorm';
import { Problem } from '../core/errors.ts';
import type { IssuerRecord, IssuersStore } from '../auth/issuers.ts';
import {
  type IssuerPatch,
  type IssuerRegistration,
  type IssuerState,
  newIssuer,
  patchedIssuer,
  type RegistrationRules,
} from '../auth/registration.ts';
import type { Outcome } from './audited-transactions.ts';
import { notFound } from './route-parts.ts';

/* What the API and the command line do to the registry of issuers: each in one transaction with its record. */

/** Throws Problem `issuer_exists`, `validation_failed`. */
export async function registerIssuer(
  entities: EntityManager,
  issuers: IssuersStore,
  registration: IssuerRegistration,
  rules: RegistrationRules,
): Promise<Outcome<IssuerView, IssuerView>> {
  const id = randomUUIDv7();
  const record = await issuers.insert(entities, id, newIssuer(id, registration, rules));
  if (record === 'iss-taken') throw taken();
  const after = issuerView(record);
  return { result: after, change: { target: id, before: null, after } };
}

/** Throws Problem `not_found`, `issuer_exists`, `validation_failed`. */
export async function changeIssuer(
  entities: EntityManager,
  issuers: IssuersStore,
  id: string,
  patch: IssuerPatch,
  rules: RegistrationRules,
): Promise<Outcome<IssuerView, IssuerView>> {
  const current = await issuers.lock(entities, id);
  if (current === undefined) throw notFound('issuer');
  const before = issuerView(current);
  const next = patchedIssuer(current, patch, rules);
  // A secret cannot be compared, so one that is sent is always a new one.
  if (typeof patch.secret !== 'string' && looksLike(current, next))
    return { result: before, change: undefined };
  const record = await issuers.update(entities, id, next);
  if (record === 'iss-taken') throw taken();
  const after = issuerView(record);
  return { result: after, change: { target: id, before, after } };
}

/** Throws Problem `not_found`. */
export async function removeIssuer(
  entities: EntityManager,
  issuers: IssuersStore,
  id: string,
): Promise<Outcome<undefined, IssuerView>> {
  const current = await issuers.lock(entities, id);
  if (current === undefined) throw notFound('issuer');
  await issuers.remove(entities, id);
  return { result: undefined, change: { target: id, before: issuerView(current), after: null } };
}

const taken = () => new Problem('issuer_exists', 'Another issuer with this iss is registered.');

/** What may be seen of a registration. Keys are public; of a secret only that there is one. */
function shownOf({ iss, name, status, definition, sealedSecret, revokedBefore }: IssuerState) {
  const { jwksUrl = null, keys = null, tenant = null, tenants = null, ...rest } = definition;
  const { algorithms, audiences, claims, scopes, requireAtJwt } = rest;
  return {
    iss,
    name,
    status,
    jwksUrl,
    keys,
    hasSecret: sealedSecret !== null,
    algorithms,
    audiences,
    tenant,
    tenants,
    claims,
    scopes,
    requireAtJwt,
    revokedBefore,
  };
}

/** An issuer as the API shows it and the audit log keeps it. */
export function issuerView(record: IssuerRecord) {
  const { id, version, createdAt, updatedAt } = record;
  return { id, ...shownOf(record), version, createdAt, updatedAt };
}
export type IssuerView = ReturnType<typeof issuerView>;

/** Whether two registrations show the same. A secret is never shown. */
const looksLike = (a: IssuerState, b: IssuerState): boolean => isDeepStrictEqual(shownOf(a), shownOf(b));
