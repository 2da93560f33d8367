import { SERVICE_SCOPES } from '../../../src/core/identifiers.ts';
import { serviceToken, userToken, type UserTokenOptions } from '../../support/tokens.ts';
import type { DocumentedOperation } from '../document.ts';

/** All that a tenant's own services may hold; the right over the installation is not among it. */
const TENANT_SCOPES = SERVICE_SCOPES.filter((scope) => scope !== 'tenants:admin');
const PUBLISH = TENANT_SCOPES.filter((scope) => scope.startsWith('notifications:')).join(' ');

/** Whoever may speak in a tenant. */
export const callersOf = (tenant: string) => ({
  user: (user: string, options: Omit<UserTokenOptions, 'tenant' | 'user'> = {}) =>
    userToken({ tenant, user, ...options }),
  billing: serviceToken({ tenant, client: 'billing', scope: PUBLISH }),
  shop: serviceToken({ tenant, client: 'shop', scope: PUBLISH }),
  /** Everything but the right over the installation. */
  operator: serviceToken({ tenant, client: 'operator', scope: TENANT_SCOPES.join(' ') }),
  admin: serviceToken({ tenant, client: 'console', scope: 'tenants:admin' }),
});

export type Callers = ReturnType<typeof callersOf>;

/** Whoever of the tenant may do it; undefined: no token is needed. */
export function callerFor(access: DocumentedOperation['access'], callers: Callers) {
  if (access === 'public') return undefined;
  if (access === 'user') return callers.user('bob', { topics: ['news'] });
  if (access.includes('tenants:admin')) return callers.admin;
  return access.includes('notifications:publish') ? callers.billing : callers.operator;
}
