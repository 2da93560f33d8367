import { isDeepStrictEqual } from 'node:util';
import type { IssuerRecord } from '../auth/issuers.store.ts';
import type { IssuerState } from '../auth/registration.ts';

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
export const looksLike = (a: IssuerState, b: IssuerState): boolean =>
  isDeepStrictEqual(shownOf(a), shownOf(b));
