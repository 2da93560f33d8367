import { Injectable } from '@nestjs/common';
import { map, merge, type Observable } from 'rxjs';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Issuer } from './issuer.ts';
import { Issuers } from './issuers.ts';
import { Revocations } from './revocations.ts';
import { Tenants } from '../tenants/tenants.ts';
import { tokenInvalid } from './bearer.ts';
import type { Principal } from '../http/principal.ts';

/** Why a caller whose token was good once is not let in (any more). */
export type TokenRefusal = 'issuer' | 'revoked' | 'tenant-suspended' | 'tenant-unknown';

/** What a caller is held against after the token was verified. */
export type Caller = Pick<Principal, 'tenantId' | 'subject' | 'issuer' | 'tokenId' | 'issuedAt'>;

/** Whether a caller may still come in: asked at each request, and of every open stream when something changed. */
@Injectable()
export class TokenStatus {
  /** The tenant in which it has to be asked again, or all of them. */
  readonly changed: Observable<TenantId | 'all'>;

  constructor(
    private readonly issuers: Issuers,
    private readonly tenants: Tenants,
    private readonly revocations: Revocations,
  ) {
    this.changed = merge(
      issuers.changed.pipe(map(() => 'all' as const)),
      tenants.changed,
      revocations.changed,
    );
  }

  refusal(caller: Caller): TokenRefusal | undefined {
    const issuer = this.issuers.find(caller.issuer);
    if (issuer === undefined || !speaksFor(issuer, caller)) return 'issuer';
    if (this.revocations.revokes(caller)) return 'revoked';
    const standing = this.tenants.standing(caller.tenantId);
    return standing === 'active' ? undefined : `tenant-${standing}`;
  }

  /** @throws Problem `token_invalid`, `tenant_suspended`, `tenant_unknown` */
  require(caller: Caller): void {
    switch (this.refusal(caller)) {
      case undefined:
        return;
      case 'issuer':
        throw tokenInvalid('The issuer of the token is not trusted with it any more.');
      case 'revoked':
        throw tokenInvalid('The token was revoked.');
      case 'tenant-suspended':
        throw new Problem('tenant_suspended', 'The tenant of the token is suspended.');
      case 'tenant-unknown':
        throw new Problem('tenant_unknown', 'The tenant of the token is not registered.');
    }
  }
}

function speaksFor({ status, tenants, revokedBefore }: Issuer, { tenantId, issuedAt }: Caller): boolean {
  if (status !== 'active') return false;
  if (tenants.kind === 'fixed' && tenants.tenantId !== tenantId) return false;
  if (tenants.kind === 'listed' && !tenants.tenantIds.has(tenantId)) return false;
  // A token that does not say when it was issued may have been issued before.
  return revokedBefore === undefined || (issuedAt !== undefined && issuedAt >= revokedBefore);
}
