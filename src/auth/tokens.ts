import { hash } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { CONFIG, type Config } from '../core/config.ts';
import { Issuers } from './issuers.ts';
import { TokenStatus } from './token-status.ts';
import { Tenants } from '../tenants/tenants.ts';
import { tooManyTopics } from './claims.ts';
import { JwtStrategy, type TokenCheck, type VerifiedToken } from './jwt.strategy.ts';
import { tokenInvalid } from './credentials.ts';
import { type Principal } from '../http/access.ts';

/** A signature is checked again after this long, in ms: the key may have been withdrawn since. */
const REMEMBERED_MS = 10 * 60_000;

/** Whom a token stands for. */
@Injectable()
export class Tokens {
  /** By SHA-256, so that a copy of this process's memory holds fewer tokens that can be used. */
  readonly #verified: LRUCache<string, VerifiedToken> | undefined;

  constructor(
    private readonly strategy: JwtStrategy,
    private readonly issuers: Issuers,
    private readonly admission: TokenStatus,
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
    this.admission.require(principal);
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
