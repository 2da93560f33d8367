import { randomUUID, verify, type KeyObject } from 'node:crypto';
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

/** A token on its way through passport, which knows requests only. */
export interface TokenCarrier {
  readonly token: string;
  /** Whose keys the token is checked with: chosen once, so that keys and rules are of one registration. */
  issuer?: Issuer;
  /** Of the keys among which one was found for the token. */
  keys?: number;
  /** The signature is good. */
  signed?: true;
  user?: VerifiedToken;
}

/** A token whose signature and claims are good, and the registration by which they are. */
export interface VerifiedToken {
  readonly principal: Principal;
  readonly issuer: Issuer;
  /** The version of the issuer's keys that it was checked with. */
  readonly keys: number;
}

interface StrategyOptions {
  /** Under which passport keeps the strategy. */
  name: string;
  jwtFromRequest: (carrier: TokenCarrier) => string;
  secretOrKeyProvider: (
    carrier: TokenCarrier,
    token: string,
    done: (refused: unknown, key?: KeyObject) => void,
  ) => Promise<void>;
  passReqToCallback: true;
  algorithms: readonly Algorithm[];
  ignoreExpiration: boolean;
  jsonWebTokenOptions: { ignoreNotBefore: boolean };
}

/** The types of passport-jwt know keys as strings and buffers, and requests of Express only. */
const PassportJwt: Type<Strategy> = Strategy;

class NamedStrategy extends PassportJwt {
  constructor(options: StrategyOptions, validate: (...parameters: unknown[]) => void) {
    super(options, validate);
    this.name = options.name;
  }
}

/*
 * passport-jwt checks signatures with `jsonwebtoken`, which knows no EdDSA; this is the place that it keeps for another
 * verifier. `jose` verifies all of them, but each time by way of another thread: 200 µs a token, where RS256 takes 40.
 */
const jsonwebtoken: unknown = Reflect.get(Strategy, 'JwtVerifier');
Object.assign(Strategy, { JwtVerifier: checkSignature });

type Done = (refused: unknown, payload?: unknown) => void;

function checkSignature(token: string, key: KeyObject, options: unknown, done: Done): void {
  if (typeof jsonwebtoken !== 'function') throw new Error('passport-jwt has no verifier.');
  if (key.asymmetricKeyType === 'ed25519') {
    done(isSigned(token, key) ? null : badSignature());
    return;
  }
  const settle: Done = (refused, payload) =>
    done(refused === null || refused === undefined ? null : badSignature(refused), payload);
  try {
    Reflect.apply(jsonwebtoken, undefined, [token, key, options, settle]);
  } catch (error) {
    // It throws on some payloads that are no objects.
    settle(error);
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

/**
 * Passport's view of a token: the issuer is chosen by the exact `iss` among those that are registered, the key by `kid`
 * within that issuer's keys and algorithms (RFC 8725 §3.8, RFC 9068 §4), and the claims are checked in claims.ts.
 */
@Injectable()
export class JwtStrategy extends PassportStrategy(NamedStrategy) {
  readonly #limits: TokenLimits;

  constructor(@Inject(CONFIG) config: Config, tenants: Tenants, issuers: Issuers) {
    super({
      // Passport is one for the whole process: under a common name, a second application would take over the first.
      name: `jwt ${randomUUID()}`,
      jwtFromRequest: (carrier) => carrier.token,
      secretOrKeyProvider: async (carrier, token, done) => {
        try {
          const header = readHeader(token);
          const issuer = issuerOf(token, header, issuers);
          carrier.issuer = issuer;
          // Before: should they change meanwhile, the token is checked anew the next time.
          const version = issuer.keys.version();
          const key = await keyOf(issuer, header);
          carrier.keys = version;
          done(null, key);
        } catch (error) {
          done(error);
        }
      },
      passReqToCallback: true,
      algorithms: ALGORITHMS,
      // Times are checked with the other claims.
      ignoreExpiration: true,
      jsonWebTokenOptions: { ignoreNotBefore: true },
    });
    this.#limits = { ...config, topicsPerToken: (tenantId) => tenants.limits(tenantId).topicsPerToken };
  }

  /** Called by passport once the signature is good. */
  validate(carrier: TokenCarrier): VerifiedToken {
    const { token, issuer, keys } = carrier;
    if (issuer === undefined || keys === undefined) throw new Error('A key was found without an issuer.');
    carrier.signed = true;
    const { principal, refused } = readClaims(readPayload(token), issuer, this.#limits, Date.now());
    if (principal === undefined) throw tokenInvalid(refused);
    return { principal, issuer, keys };
  }
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
