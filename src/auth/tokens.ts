import { hash } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { CONFIG, type Config } from '../core/config.ts';
import { Issuers } from './issuers.ts';
import { Tenants } from '../tenants/tenants.ts';
import { tooManyTopics } from './claims.ts';
import { JwtStrategy, type TokenCheck, type VerifiedToken } from './jwt.strategy.ts';
import { tokenInvalid } from './credentials.ts';
import type { Principal } from '../http/access.ts';
import { map, merge, type Observable } from 'rxjs';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Issuer } from './issuer.ts';
import { Revocations } from './revocations.ts';
/** A signature is checked again after this long, in ms: the key may have been withdrawn since. */
const REMEMBERED_MS = 10 * 60_000;

/** Why a caller whose token was good once is not let in (any more). */
type TokenRefusal = 'issuer' | 'revoked' | 'tenant-suspended' | 'tenant-unknown';

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

/** Whom a token stands for. */
@Injectable()
export class Tokens {
  /** By SHA-256, so that a copy of this process's memory holds fewer tokens that can be used. */
  readonly #verified: LRUCache<string, VerifiedToken> | undefined;

  constructor(
    private readonly strategy: JwtStrategy,
    private readonly issuers: Issuers,
    private readonly tokenStatus: TokenStatus,
    private readonly tenants: Tenants,
    @Inject(CONFIG) private readonly config: Config,
  ) {
    if (config.TOKEN_CACHE_SIZE > 0)
      this.#verified = new LRUCache({ max: config.TOKEN_CACHE_SIZE, ttl: REMEMBERED_MS });
  }

  /**
   * The caller that a compact JWT stands for. A token that was seen before keeps its signature and its claims; what can
   * change, its end, its issuer, revocations, the tenant and its limits, is looked at each time.
   *
   * @throws Problem `token_invalid`, `keys_unavailable`, `tenant_suspended`, `tenant_unknown`
   */
  async verify(token: string): Promise<Principal> {
    // passport-jwt takes an empty token for none, which is no refusal that a caller can read.
    if (token === '') throw tokenInvalid('The token is not a signed JSON Web Token.');
    const digest = hash('sha256', token, 'base64');
    const principal = this.#remembered(digest) ?? (await this.#check(token, digest));
    this.tokenStatus.require(principal);
    return principal;
  }

  #remembered(digest: string): Principal | undefined {
    const found = this.#verified?.get(digest);
    if (found === undefined) return undefined;
    const { principal, issuer, keys } = found;
    // Every change of a registration makes a new object: the token has to pass the new one. And a key may have been withdrawn.
    if (this.issuers.find(principal.issuer) !== issuer || issuer.keys.version() !== keys) {
      this.#verified?.delete(digest);
      return undefined;
    }
    if (principal.expiresAt + this.config.JWT_CLOCK_TOLERANCE_SECONDS * 1_000 <= Date.now()) {
      this.#verified?.delete(digest);
      throw tokenInvalid('The token has expired.');
    }
    // Of a limit that was lowered since. Streams that it opened go on until they are renewed or their token ends.
    const tooMany = tooManyTopics(principal.topics, this.tenants.limits(principal.tenantId).topicsPerToken);
    if (tooMany !== undefined) {
      this.#verified?.delete(digest);
      throw tokenInvalid(tooMany);
    }
    return principal;
  }

  /** @param lookAgain whether the issuer may have other keys by now, and shall be asked */
  async #check(token: string, digest: string, lookAgain = true): Promise<Principal> {
    const check: TokenCheck = { token };
    let verified: VerifiedToken;
    try {
      verified = await this.strategy.verify(check);
    } catch (error) {
      if (!lookAgain || !(await hasOtherKeys(check))) throw error;
      return await this.#check(token, digest, false);
    }
    // Its registration was changed while its keys were fetched: it has to pass the new one.
    if (this.issuers.find(verified.principal.issuer) !== verified.issuer)
      return await this.#check(token, digest, lookAgain);
    this.#verified?.set(digest, verified);
    return verified.principal;
  }
}

/** For a token whose key was found and whose signature it did not fit: whether that key is another one by now. */
async function hasOtherKeys({ issuer, keys, signed }: TokenCheck): Promise<boolean> {
  if (issuer === undefined || keys === undefined || signed === true) return false;
  await issuer.keys.lookAgain();
  return issuer.keys.version() !== keys;
}
