import { createSecretKey, KeyObject } from 'node:crypto';
import { errors, type CryptoKey, type LocalJWKSet, type RemoteJWKSet } from 'jose';

/** What the header of a token says about its key. */
export interface KeyRequest {
  readonly alg: string;
  readonly kid: string | undefined;
}

/** The keys of one issuer. No key comes from a token, and none from another issuer. */
export interface VerificationKeys {
  /** @throws NoSuchKey if there is no such key, KeysUnavailable if nobody can tell at the moment. */
  keyFor(request: KeyRequest): Promise<KeyObject>;
  /** Another number when the keys have become others: a token that was checked before has to be checked anew. Sees to their age, too. */
  version(): number;
  /**
   * For a token that fits none of the keys, or has no key: whoever signs may have exchanged one under the same name, or without
   * one. Asks at most every few seconds, however many such tokens strangers make up, and never throws.
   */
  lookAgain(): Promise<void>;
}

/** Keys that are what they are until their registration changes. */
export abstract class FixedKeys implements VerificationKeys {
  abstract keyFor(request: KeyRequest): Promise<KeyObject>;

  version(): number {
    return 0;
  }

  lookAgain(): Promise<void> {
    return Promise.resolve();
  }
}

/** The message is a sentence for the caller, in ASCII without quotes and without anything from the token. */
export class NoSuchKey extends Error {
  override readonly name = 'NoSuchKey';
}

/** The keys cannot be had at the moment; `cause` is for the log. */
export class KeysUnavailable extends Error {
  override readonly name = 'KeysUnavailable';

  constructor(cause: unknown) {
    super('The keys of the token issuer cannot be fetched at the moment.', { cause });
  }
}

/** One secret, known to this service and to whoever signs. */
export class SharedSecret extends FixedKeys {
  readonly #key: KeyObject;

  constructor(secret: string) {
    super();
    // Given a string, a verifying library builds the key anew each time: 800 µs a token instead of 20.
    this.#key = createSecretKey(secret, 'utf8');
  }

  async keyFor(): Promise<KeyObject> {
    return this.#key;
  }
}

/**
 * The keys, for these algorithms alone. They are settled by the registration, and asked about first: an algorithm that a
 * token made up neither turns a public key into a secret (RFC 8725 §3.1) nor makes anyone ask the key server.
 */
export function within(algorithms: readonly string[], keys: VerificationKeys): VerificationKeys {
  return {
    async keyFor(request) {
      if (!algorithms.includes(request.alg)) {
        throw new NoSuchKey('The header `alg` is not an algorithm that is accepted from the issuer.');
      }
      return await keys.keyFor(request);
    },
    version: () => keys.version(),
    lookAgain: () => keys.lookAgain(),
  };
}

const keyObjects = new WeakMap<CryptoKey, KeyObject>();

/** The one public key of a set that fits. @throws NoSuchKey, KeysUnavailable */
export async function keyIn(set: LocalJWKSet | RemoteJWKSet, { alg, kid }: KeyRequest): Promise<KeyObject> {
  try {
    const key = await set({ alg, ...(kid === undefined ? {} : { kid }) });
    return keyObjects.get(key) ?? keep(key);
  } catch (error) {
    if (error instanceof NoSuchKey) throw error;
    if (error instanceof errors.JWKSNoMatchingKey) {
      throw new NoSuchKey('The issuer has no key with the `kid` and `alg` of the token.');
    }
    if (error instanceof errors.JWKSMultipleMatchingKeys) {
      throw new NoSuchKey(
        kid === undefined
          ? 'The issuer has several keys for this `alg`; the token has to name one by `kid`.'
          : 'The issuer has several keys with the `kid` and `alg` of the token; which one is meant cannot be told.',
      );
    }
    throw new KeysUnavailable(error);
  }
}

function keep(key: CryptoKey): KeyObject {
  const keyObject = KeyObject.from(key);
  if (faultOfRsa(keyObject) !== undefined)
    throw new NoSuchKey('The key of the issuer is too short or too long.');
  keyObjects.set(key, keyObject);
  return keyObject;
}

/** RFC 7518 §3.3 and §3.5: nothing shorter may be used with RS* and PS*. */
const LEAST_RSA_BITS = 2048;

/** Longer keys make each signature dear, also one that a stranger made up: 7 ms with a modulus and an exponent of 3,072 bits. */
const MOST_RSA_BITS = 8192;
const MOST_RSA_EXPONENT = 2n ** 32n;

/** Why an RSA key is not taken; undefined if it is, or is of another kind. */
export function faultOfRsa({ asymmetricKeyDetails }: KeyObject): string | undefined {
  const { modulusLength: bits = LEAST_RSA_BITS, publicExponent = 0n } = asymmetricKeyDetails ?? {};
  if (bits < LEAST_RSA_BITS) return `has ${bits} bits; RSA keys have at least ${LEAST_RSA_BITS}`;
  if (bits > MOST_RSA_BITS) return `has ${bits} bits; RSA keys have at most ${MOST_RSA_BITS}`;
  if (publicExponent > MOST_RSA_EXPONENT) return 'has an exponent of more than 32 bits';
  return undefined;
}
