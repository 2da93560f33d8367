import { randomUUID, type KeyObject } from 'node:crypto';
import { Inject, Injectable, type Type } from '@nestjs/common';
import { PassportStrategy } from '@nestjs/passport';
import type { FastifyRequest } from 'fastify';
import { Strategy, type VerifyCallback } from 'passport-jwt';
import { CONFIG, type Config } from '../config.ts';
import { bearerToken, tokenInvalid } from './bearer.ts';
import { readClaims } from './claims.ts';
import { readHeader } from './jose-header.ts';
import type { Principal } from './principal.ts';
import { SigningKeys, type Algorithm } from './signing-keys.ts';

interface StrategyOptions {
  /** Under which passport keeps the strategy. */
  name: string;
  jwtFromRequest: (request: FastifyRequest) => string;
  secretOrKeyProvider: (
    request: FastifyRequest,
    token: string,
    done: (refused: unknown, key?: KeyObject) => void,
  ) => Promise<void>;
  algorithms: readonly Algorithm[];
  ignoreExpiration: boolean;
  jsonWebTokenOptions: { ignoreNotBefore: boolean };
}

/** The types of passport-jwt know keys as strings and buffers only; what verifies the signature underneath takes a KeyObject, and is 40 times faster with it. */
const PassportJwt: Type<Strategy> = Strategy;

class NamedStrategy extends PassportJwt {
  constructor(options: StrategyOptions, verify: VerifyCallback) {
    super(options, verify);
    this.name = options.name;
  }
}

/**
 * Passport's view of a bearer token: passport-jwt holds the signature against the configured algorithms, and the
 * claims, times included, are checked in one place, claims.ts.
 */
@Injectable()
export class JwtStrategy extends PassportStrategy(NamedStrategy) {
  constructor(
    @Inject(CONFIG) private readonly config: Config,
    keys: SigningKeys,
  ) {
    super({
      // Passport is one for the whole process: under a common name, a second application would take over the first.
      name: `jwt ${randomUUID()}`,
      jwtFromRequest: (request) => bearerToken(request.raw.rawHeaders),
      secretOrKeyProvider: async (_, token, done) => {
        try {
          // `done` verifies, and throws on some payloads that are no objects: that, too, is a refusal.
          done(null, await keyFor(token, keys));
        } catch (error) {
          done(error);
        }
      },
      algorithms: keys.algorithms,
      ignoreExpiration: true,
      jsonWebTokenOptions: { ignoreNotBefore: true },
    });
  }

  /** Called by passport once the signature is good. */
  validate(payload: unknown): Principal {
    const { principal, refused } = readClaims(payload, this.config, Date.now());
    if (principal === undefined) throw tokenInvalid(refused);
    return principal;
  }
}

async function keyFor(token: string, keys: SigningKeys): Promise<KeyObject> {
  const header = readHeader(token);
  // Before the key is looked for: a made-up algorithm must not make anyone ask the key server.
  if (!keys.algorithms.some((algorithm) => algorithm === header.alg)) {
    throw tokenInvalid('The header `alg` is not the algorithm that this service accepts.');
  }
  return keys.keyFor(header);
}
