import { createSecretKey, KeyObject } from 'node:crypto';
import {
  createRemoteJWKSet,
  customFetch,
  errors,
  jwksCache,
  type CryptoKey,
  type JWKSCacheInput,
  type RemoteJWKSet,
} from 'jose';
import { z } from 'zod';
import type { Config } from '../config.ts';
import { Problem } from '../errors.ts';
import { tokenInvalid } from './bearer.ts';
import type { JoseHeader } from './jose-header.ts';

export type Algorithm = 'HS256' | Config['JWKS_ALGORITHMS'][number];

/** The keys that tokens are verified with. Which algorithms are accepted is settled here, by configuration, and never by a token. */
export abstract class SigningKeys {
  abstract readonly algorithms: readonly Algorithm[];

  /** @throws Problem `token_invalid` if there is no such key, `keys_unavailable` if nobody can tell at the moment. */
  abstract keyFor(header: JoseHeader): Promise<KeyObject>;
}

/** One secret, known to this service and to whoever signs. */
export class SharedSecret extends SigningKeys {
  readonly algorithms = ['HS256'] as const;
  readonly #key: KeyObject;

  constructor(secret: string) {
    super();
    // Given a string, the verifying library builds the key anew each time: 800 µs a token instead of 20.
    this.#key = createSecretKey(secret, 'utf8');
  }

  keyFor(): Promise<KeyObject> {
    return Promise.resolve(this.#key);
  }
}

/** All in ms. */
export const KEY_SET_TIMING = {
  /** Longest wait for the key server, body included. */
  timeout: 3_000,
  /** A key set younger than this is not asked for again because of a `kid` it lacks: strangers can make up any number of those. */
  cooldown: 5_000,
  /** After a failure the key server is left alone for this long. */
  rest: 1_000,
  /** An older key set is fetched anew, beside the requests: none of them waits. */
  refreshAfter: 10 * 60_000,
  /** How long the keys at hand serve while the key server is away; also the longest that a withdrawn key is honoured. */
  maxAge: 60 * 60_000,
};

/** Far above any real key set; a body without end must not fill the memory. */
const MAX_KEY_SET_BYTES = 256 * 1024;

const keySetSchema = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) });

/** The key set of an issuer (RFC 7517), fetched on first use and kept; one request in flight, redirects not followed. */
export class RemoteKeys extends SigningKeys {
  readonly #resolve: RemoteJWKSet;
  readonly #cache: JWKSCacheInput = {};
  readonly #keyObjects = new WeakMap<CryptoKey, KeyObject>();
  #restUntil = 0;

  constructor(
    url: string,
    readonly algorithms: readonly Algorithm[],
    private readonly timing = KEY_SET_TIMING,
    private readonly warn: (message: string) => void = () => undefined,
  ) {
    super();
    this.#resolve = createRemoteJWKSet(new URL(url), {
      timeoutDuration: timing.timeout,
      cooldownDuration: timing.cooldown,
      cacheMaxAge: timing.maxAge,
      [jwksCache]: this.#cache,
      [customFetch]: (target, options) => this.#fetch(target, options),
    });
  }

  async keyFor({ alg, kid }: JoseHeader): Promise<KeyObject> {
    this.#refreshWhenOld();
    try {
      const key = await this.#resolve({ alg, ...(kid === undefined ? {} : { kid }) });
      return this.#keyObjects.get(key) ?? this.#keep(key);
    } catch (error) {
      if (error instanceof errors.JWKSNoMatchingKey) {
        throw tokenInvalid('The issuer has no key with the `kid` and `alg` of the token.');
      }
      if (error instanceof errors.JWKSMultipleMatchingKeys) {
        throw tokenInvalid('The issuer has several keys for this `alg`; the token has to name one by `kid`.');
      }
      throw new Problem('keys_unavailable', 'The keys of the token issuer cannot be fetched at the moment.', {
        retryAfter: 5,
        cause: error,
      });
    }
  }

  #keep(key: CryptoKey): KeyObject {
    const keyObject = KeyObject.from(key);
    this.#keyObjects.set(key, keyObject);
    return keyObject;
  }

  #refreshWhenOld(): void {
    const fetchedAt = this.#cache['uat'];
    if (fetchedAt === undefined || Date.now() - fetchedAt < this.timing.refreshAfter) return;
    if (this.#resolve.reloading || Date.now() < this.#restUntil) return;
    this.#resolve
      .reload()
      .catch((error: unknown) => this.warn(`Signing keys not refreshed: ${String(error)}`));
  }

  async #fetch(url: string, options: RequestInit): Promise<Response> {
    if (Date.now() < this.#restUntil) throw new Error('The key server failed a moment ago.');
    try {
      const response = await fetch(url, options);
      if (response.status !== 200) throw new Error(`The key server answered ${response.status}.`);
      return Response.json(keySetSchema.parse(JSON.parse(await readBounded(response))));
    } catch (error) {
      this.#restUntil = Date.now() + this.timing.rest;
      throw error;
    }
  }
}

async function readBounded(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > MAX_KEY_SET_BYTES) throw new Error(`The key set is larger than ${MAX_KEY_SET_BYTES} bytes.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
