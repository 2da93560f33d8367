import { randomUUID, type KeyObject } from 'node:crypto';
import { Inject, Injectable, type Type } from '@nestjs/common';
import { PassportStrategy } from '@nestjs/passport';
import { compactVerify, errors } from 'jose';
import { Strategy } from 'passport-jwt';
import { CONFIG, type Config } from '../config.ts';
import { Problem } from '../errors.ts';
import { ALGORITHMS, type Issuer } from '../issuers/issuer.ts';
import { Issuers } from '../issuers/issuers.ts';
import { KeysUnavailable, NoSuchKey } from '../issuers/verification-keys.ts';
import { tokenInvalid } from './bearer.ts';
import { readClaims } from './claims.ts';
import { claimedIssuer, readHeader, readPayload, type JoseHeader } from './jws.ts';
import type { Principal } from './principal.ts';

/** A token on its way through passport, which knows requests only. */
export interface TokenCarrier {
  readonly token: string;
  /** Whose keys the token is checked with: chosen once, so that keys and rules are of one registration. */
  issuer?: Issuer;
  user?: VerifiedToken;
}

/** A token whose signature and claims are good, and the registration by which they are. */
export interface VerifiedToken {
  readonly principal: Principal;
  readonly issuer: Issuer;
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
}

/** The types of passport-jwt know keys as strings and buffers, and requests of Express only. */
const PassportJwt: Type<Strategy> = Strategy;

class NamedStrategy extends PassportJwt {
  constructor(options: StrategyOptions, verify: (...parameters: unknown[]) => void) {
    super(options, verify);
    this.name = options.name;
  }
}

/*
 * passport-jwt checks signatures with `jsonwebtoken`, which knows no EdDSA and lets an unknown `crit` pass. This is the
 * place that it keeps for another library. `jose` takes algorithm and key from the same header that the key was
 * chosen by, and refuses a key of another kind than the algorithm's (RFC 8725 §3.1).
 */
Object.assign(Strategy, { JwtVerifier: checkSignature });

async function checkSignature(
  token: string,
  key: KeyObject,
  _options: unknown,
  done: (refused: unknown, payload?: Uint8Array) => void,
): Promise<void> {
  try {
    const { payload } = await compactVerify(token, key, { algorithms: [...ALGORITHMS] });
    done(null, payload);
  } catch (error) {
    done(error);
  }
}

/**
 * Passport's view of a token: the issuer is chosen by the exact `iss` among those that are registered, the key by `kid`
 * within that issuer's keys and algorithms (RFC 8725 §3.8, RFC 9068 §4), and the claims are checked in claims.ts.
 */
@Injectable()
export class JwtStrategy extends PassportStrategy(NamedStrategy) {
  constructor(
    @Inject(CONFIG) private readonly config: Config,
    issuers: Issuers,
  ) {
    super({
      // Passport is one for the whole process: under a common name, a second application would take over the first.
      name: `jwt ${randomUUID()}`,
      jwtFromRequest: (carrier) => carrier.token,
      secretOrKeyProvider: async (carrier, token, done) => {
        try {
          const header = readHeader(token);
          const issuer = issuerOf(token, header, issuers);
          carrier.issuer = issuer;
          done(null, await keyOf(issuer, header));
        } catch (error) {
          done(error);
        }
      },
      passReqToCallback: true,
    });
  }

  /** Called by passport once the signature is good. */
  validate({ issuer }: TokenCarrier, payload: Uint8Array): VerifiedToken {
    if (issuer === undefined) throw new Error('A key was found without an issuer.');
    const { principal, refused } = readClaims(readPayload(payload), issuer, this.config, Date.now());
    if (principal === undefined) throw tokenInvalid(refused);
    return { principal, issuer };
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

/** What passport hands over in place of a verified token, as what the caller is told. */
export function refusalOf(reason: unknown): Error {
  if (reason instanceof Problem) return reason;
  // `jose` throws a TypeError for a key that is not of the algorithm's kind.
  if (reason instanceof errors.JOSEError || reason instanceof TypeError) {
    return tokenInvalid('The signature or the form of the token is not valid.', reason);
  }
  return reason instanceof Error ? reason : new Error('Passport let nobody in.');
}
