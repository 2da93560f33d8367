import { verify, type KeyObject } from 'node:crypto';
import { Inject, Injectable, type Type } from '@nestjs/common';
import { PassportStrategy } from '@nestjs/passport';
import { Strategy } from 'passport-jwt';
import { CONFIG, type Config } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import { ALGORITHMS, type Algorithm, type Issuer } from './issuer.ts';
import { Issuers } from './issuers.ts';
import { KeysUnavailable, NoSuchKey } from './keys.ts';
import { Tenants } from '../tenants/tenants.ts';
import { tokenInvalid } from './credentials.ts';
import {
  claimedIssuer,
  type JoseHeader,
  readClaims,
  readHeader,
  readPayload,
  type TokenLimits,
} from './claims.ts';
import type { Principal } from '../http/access.ts';

/** A token that is being checked, and what is known of it so far. For passport it is the request. */
export interface TokenCheck {
  readonly token: string;
  /** Whose keys the token is checked with: chosen once, so that keys and rules are of one registration. */
  issuer?: Issuer;
  /** The version of the keys among which one was found for the token. */
  keys?: number;
  key?: KeyObject;
  /** The signature is good. */
  signed?: true;
}

/** A token whose signature and claims are good, and the registration by which they are. */
export interface VerifiedToken {
  readonly principal: Principal;
  readonly issuer: Issuer;
  /** The version of the issuer's keys that it was checked with. */
  readonly keys: number;
}

interface StrategyOptions {
  jwtFromRequest: (check: TokenCheck) => string;
  secretOrKeyProvider: (
    check: TokenCheck,
    token: string,
    done: (refused: unknown, key?: KeyObject) => void,
  ) => void;
  passReqToCallback: true;
  algorithms: readonly Algorithm[];
  ignoreExpiration: boolean;
  jsonWebTokenOptions: { ignoreNotBefore: boolean };
}

/** The types of passport-jwt know keys as strings and buffers, and requests of Express only. */
const PassportJwt: Type<Strategy> = Strategy;

/** What passport's middleware makes of a strategy for one request: a copy of it that calls one of these when it is done. */
interface RequestStrategy {
  authenticate(check: TokenCheck): void;
  success: (verified: VerifiedToken) => void;
  fail: (reason: unknown) => void;
  error: (error: unknown) => void;
}

/**
 * Passport's view of a token: the issuer is chosen by the exact `iss` among those that are registered, the key by `kid`
 * within that issuer's keys and algorithms (RFC 8725 §3.8, RFC 9068 §4), and the claims are checked in claims.ts.
 */
@Injectable()
export class JwtStrategy extends PassportStrategy(PassportJwt) {
  readonly #limits: TokenLimits;
  readonly #issuers: Issuers;

  constructor(@Inject(CONFIG) config: Config, tenants: Tenants, issuers: Issuers) {
    super({
      jwtFromRequest: ({ token }) => token,
      secretOrKeyProvider: ({ key }, _token, done) => done(null, key),
      passReqToCallback: true,
      algorithms: ALGORITHMS,
      // Times are checked with the other claims.
      ignoreExpiration: true,
      jsonWebTokenOptions: { ignoreNotBefore: true },
    } satisfies StrategyOptions);
    this.#limits = { ...config, topicsPerToken: (tenantId) => tenants.limits(tenantId).topicsPerToken };
    this.#issuers = issuers;
  }

  /**
   * The caller that the token stands for, by its signature and its claims.
   *
   * @throws Problem `token_invalid`, `keys_unavailable`
   */
  async verify(check: TokenCheck): Promise<VerifiedToken> {
    const { token } = check;
    const header = readHeader(token);
    const issuer = issuerOf(token, header, this.#issuers);
    check.issuer = issuer;
    // Before: should they change meanwhile, the token is checked anew the next time.
    const version = issuer.keys.version();
    const key = await keyOf(issuer, header);
    check.key = key;
    check.keys = version;
    // passport-jwt checks signatures with `jsonwebtoken`, which knows no EdDSA. `jose` verifies all of them, but each time
    // by way of another thread: 200 µs a token, where RS256 takes 40.
    if (key.asymmetricKeyType !== 'ed25519') return await this.#authenticate(check);
    if (!isSigned(token, key)) throw badSignature();
    return this.validate(check);
  }

  /** Called by passport once the signature is good. */
  validate(check: TokenCheck): VerifiedToken {
    const { token, issuer, keys } = check;
    if (issuer === undefined || keys === undefined) throw new Error('A key was found without an issuer.');
    check.signed = true;
    const { principal, refused } = readClaims(readPayload(token), issuer, this.#limits, Date.now());
    if (principal === undefined) throw tokenInvalid(refused);
    return { principal, issuer, keys };
  }

  /** Has passport-jwt check it. Not by passport's middleware: that is for requests, of which some bring several tokens. */
  async #authenticate(check: TokenCheck): Promise<VerifiedToken> {
    return await new Promise<VerifiedToken>((resolve, reject) => {
      const strategy: RequestStrategy = Object.create(this);
      strategy.success = resolve;
      strategy.fail = (reason) => reject(badSignature(reason));
      strategy.error = reject;
      try {
        strategy.authenticate(check);
      } catch (error) {
        // `jsonwebtoken` throws on some payloads that are no objects.
        strategy.fail(error);
      }
    });
  }
}

/** EdDSA (RFC 8037 §3.1); which algorithm the header names was settled when the key was chosen. */
function isSigned(token: string, key: KeyObject): boolean {
  const [header = '', payload = '', signature = '', ...more] = token.split('.');
  return (
    more.length === 0 &&
    verify(null, Buffer.from(`${header}.${payload}`), key, Buffer.from(signature, 'base64url'))
  );
}

function issuerOf(token: string, { typ }: JoseHeader, issuers: Issuers): Issuer {
  const issuer = issuers.find(claimedIssuer(token));
  if (issuer === undefined || issuer.status !== 'active') {
    throw tokenInvalid('The claim `iss` has to be an issuer that this service trusts.');
  }
  if (issuer.requireAtJwt && typ !== 'at+jwt') {
    throw tokenInvalid('The header `typ` has to be at+jwt for this issuer.');
  }
  return issuer;
}

async function keyOf(issuer: Issuer, header: JoseHeader): Promise<KeyObject> {
  try {
    return await issuer.keys.keyFor(header);
  } catch (error) {
    if (error instanceof NoSuchKey) throw tokenInvalid(error.message);
    if (!(error instanceof KeysUnavailable)) throw error;
    throw new Problem('keys_unavailable', 'The keys of the token issuer cannot be fetched at the moment.', {
      retryAfter: 5,
      cause: error,
    });
  }
}

const badSignature = (cause?: unknown) =>
  tokenInvalid('The signature or the form of the token is not valid.', cause);
