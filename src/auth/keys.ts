import { createPublicKey, createSecretKey, KeyObject } from 'node:crypto';
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  type CryptoKey,
  customFetch,
  errors,
  jwksCache,
  type JWKSCacheInput,
  type LocalJWKSet,
  type RemoteJWKSet,
} from 'jose';
import { z } from 'zod';

/** What the header of a token says about its key. */
interface KeyRequest {
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
abstract class FixedKeys implements VerificationKeys {
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
async function keyIn(set: LocalJWKSet | RemoteJWKSet, { alg, kid }: KeyRequest): Promise<KeyObject> {
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
function faultOfRsa({ asymmetricKeyDetails }: KeyObject): string | undefined {
  const { modulusLength: bits = LEAST_RSA_BITS, publicExponent = 0n } = asymmetricKeyDetails ?? {};
  if (bits < LEAST_RSA_BITS) return `has ${bits} bits; RSA keys have at least ${LEAST_RSA_BITS}`;
  if (bits > MOST_RSA_BITS) return `has ${bits} bits; RSA keys have at most ${MOST_RSA_BITS}`;
  if (publicExponent > MOST_RSA_EXPONENT) return 'has an exponent of more than 32 bits';
  return undefined;
}

/** Kinds of public keys (RFC 7518 §6, RFC 8037 §2). */
const KEY_TYPES = ['RSA', 'EC', 'OKP'] as const;

/** Far above any real key set; each lookup goes through all of them. */
const MOST_KEYS = 100;

/** Members of a private or secret key (RFC 7518 §6). */
const SECRET_MEMBERS = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k', 'priv'];

/** As JSON in the database can hold it. */
const text = (most: number) =>
  z
    .string()
    .max(most)
    .refine(
      (value) => value.isWellFormed() && !value.includes('\u0000'),
      'has no NUL and no lone surrogates',
    );

const member = text(4_096).exactOptional();

/** A public key (RFC 7517 §4) as it is kept; certificates and other members are dropped. */
const keptKeySchema = z.object({
  kty: z.enum(KEY_TYPES),
  kid: text(256).min(1).exactOptional(),
  alg: text(32).exactOptional(),
  use: text(32).exactOptional(),
  key_ops: z.array(text(32)).max(10).exactOptional(),
  crv: text(32).exactOptional(),
  n: member,
  e: member,
  x: member,
  y: member,
});
export const keptKeySetSchema = z.object({ keys: z.array(keptKeySchema) });

type PublicKey = z.infer<typeof keptKeySchema>;

/** A key as somebody registers it. */
const publicKeySchema = keptKeySchema
  .loose()
  .extend({
    kty: z.enum(KEY_TYPES, { error: 'is RSA, EC or OKP: a secret is registered as `secret`, with HS256' }),
  })
  .superRefine((key, context) => {
    for (const name of SECRET_MEMBERS.filter((secret) => secret in key)) {
      context.addIssue({
        code: 'custom',
        path: [name],
        message: 'belongs to a private key; send the public one, and replace this key, since it is known now',
      });
    }
    const fault = faultOf(key);
    if (fault !== undefined) context.addIssue({ code: 'custom', message: fault });
  });

/** A JWK Set (RFC 7517 §5) of public keys, each of which a token can name without doubt. */
export const publicKeySetSchema = z.strictObject({
  keys: z
    .array(publicKeySchema)
    .min(1, 'holds at least one key')
    .max(MOST_KEYS, `holds at most ${MOST_KEYS} keys`)
    .superRefine((keys, context) => {
      if (keys.length === 1) return;
      keys.forEach(({ kid }, index) => {
        const first = keys.findIndex((key) => key.kid === kid);
        if (kid === undefined) {
          context.addIssue({
            code: 'custom',
            path: [index, 'kid'],
            message: 'is required beside other keys',
          });
        } else if (first < index) {
          context.addIssue({
            code: 'custom',
            path: [index, 'kid'],
            message: `is that of keys/${first}, too`,
          });
        }
      });
    }),
});

/** Whether a token with one of these algorithms can be verified with the key. */
export function fits(
  { kty, crv, alg, use, key_ops: operations }: PublicKey,
  algorithms: readonly string[],
): boolean {
  if (use !== undefined && use !== 'sig') return false;
  if (operations !== undefined && !operations.includes('verify')) return false;
  const kinds = algorithms.filter((algorithm) => {
    if (kty === 'RSA') return /^[RP]S/.test(algorithm);
    if (kty === 'EC') return algorithm === EC_ALGORITHMS.get(crv ?? '');
    return algorithm === 'EdDSA' && crv === 'Ed25519';
  });
  return alg === undefined ? kinds.length > 0 : kinds.includes(canonical(alg));
}

const EC_ALGORITHMS = new Map([
  ['P-256', 'ES256'],
  ['P-384', 'ES384'],
  ['P-521', 'ES512'],
]);

/** RFC 9864 §2.2: the algorithm `Ed25519` is `EdDSA` with a key of Ed25519, the only kind that is taken here. */
const canonical = (alg: string): string => (alg === 'Ed25519' ? 'EdDSA' : alg);

function faultOf(key: PublicKey): string | undefined {
  const { kty, crv, n, e, x, y } = key;
  try {
    // Only what makes the public key: with `d` in it, this would read a private one.
    return faultOfRsa(createPublicKey({ key: withoutAbsent({ kty, crv, n, e, x, y }), format: 'jwk' }));
  } catch {
    return 'is no public key as RFC 7517 has it';
  }
}

function withoutAbsent(members: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(members).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
}

/** Keys that were registered themselves; nobody has to be asked for them. */
export class GivenKeys extends FixedKeys {
  readonly #set: ReturnType<typeof createLocalJWKSet>;

  constructor({ keys }: z.infer<typeof keptKeySetSchema>) {
    super();
    this.#set = createLocalJWKSet({
      keys: keys.map(({ alg, ...key }) => (alg === undefined ? key : { ...key, alg: canonical(alg) })),
    });
  }

  async keyFor(request: KeyRequest): Promise<KeyObject> {
    return await keyIn(this.#set, request);
  }
}

/** All in ms. */
export const KEY_SET_TIMING = {
  /** Longest wait for the key server, body included. */
  timeout: 3_000,
  /** A key set younger than this is not asked for again because of a token that it does not fit: strangers can make up any number of those. */
  cooldown: 5_000,
  /** After a failure the key server is left alone for this long. */
  rest: 1_000,
  /** An older key set is fetched anew, beside the requests: none of them waits. */
  refreshAfter: 10 * 60_000,
  /** How long the keys at hand serve while the key server is away. */
  maxAge: 60 * 60_000,
};

/** Far above any real key set; a body without end must not fill the memory. */
const MAX_KEY_SET_BYTES = 256 * 1024;

const keySetSchema = z.object({ keys: z.array(z.unknown()) });
const keySchema = z.looseObject({
  kty: z.enum(KEY_TYPES),
  alg: z.string().transform(canonical).optional(),
});

/** The key set of an issuer (RFC 7517), fetched on first use and kept; one request in flight, redirects not followed. */
export class RemoteKeys implements VerificationKeys {
  readonly #resolve: RemoteJWKSet;
  readonly #cache: JWKSCacheInput = {};
  #restUntil = 0;
  #lookedAt = -Infinity;
  /** The set that the version is of, as the server sent it, and as text. */
  #known: { readonly set: unknown; readonly text: string | undefined } = { set: undefined, text: undefined };
  #version = 0;

  constructor(
    readonly url: string,
    private readonly warn: (message: string) => void = () => undefined,
    private readonly timing = KEY_SET_TIMING,
  ) {
    this.#resolve = createRemoteJWKSet(new URL(url), {
      timeoutDuration: timing.timeout,
      cooldownDuration: timing.cooldown,
      cacheMaxAge: timing.maxAge,
      [jwksCache]: this.#cache,
      [customFetch]: (target, options) => this.#fetch(target, options),
    });
  }

  async keyFor(request: KeyRequest): Promise<KeyObject> {
    const version = this.version();
    try {
      return await keyIn(this.#resolve, request);
    } catch (error) {
      if (!(error instanceof NoSuchKey)) throw error;
      await this.lookAgain();
      if (this.version() === version) throw error;
      return await keyIn(this.#resolve, request);
    }
  }

  /** Grows in the moment in which another set counts, and not with one that says the same. */
  version(): number {
    this.#refreshWhenOld();
    const set = this.#cache.jwks;
    if (set !== this.#known.set) {
      const asText = JSON.stringify(set);
      if (asText !== this.#known.text) this.#version += 1;
      this.#known = { set, text: asText };
    }
    return this.#version;
  }

  async lookAgain(): Promise<void> {
    if (!this.#resolve.reloading) {
      const now = Date.now();
      if (this.#resolve.coolingDown || now < this.#lookedAt + this.timing.cooldown) return;
      this.#lookedAt = now;
    }
    await this.#reload();
  }

  #refreshWhenOld(): void {
    const fetchedAt = this.#cache['uat'];
    if (fetchedAt === undefined || Date.now() - fetchedAt < this.timing.refreshAfter) return;
    if (this.#resolve.reloading || Date.now() < this.#restUntil) return;
    void this.#reload();
  }

  async #reload(): Promise<void> {
    await this.#resolve
      .reload()
      .catch((error: unknown) => this.warn(`Signing keys not refreshed: ${String(error)}`));
  }

  async #fetch(url: string, options: RequestInit): Promise<Response> {
    if (Date.now() < this.#restUntil) throw new Error('The key server failed a moment ago.');
    try {
      // A redirect would let whoever controls one page of the provider's host name the keys.
      const response = await fetch(url, { ...options, redirect: 'manual' });
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new Error(`The key server answered ${response.status}.`);
      }
      return Response.json({ keys: keysOf(await readBounded(response)) });
    } catch (error) {
      this.#restUntil = Date.now() + this.timing.rest;
      throw error;
    }
  }
}

/** RFC 7517 §5: keys of a kind that is not understood are passed over, and do not spoil the others. */
function keysOf(body: string): unknown[] {
  const keys = keySetSchema.parse(JSON.parse(body)).keys.flatMap((key) => {
    const { success, data } = keySchema.safeParse(key);
    return success ? [data] : [];
  });
  if (keys.length > MOST_KEYS) throw new Error(`The key set holds more than ${MOST_KEYS} keys.`);
  return keys;
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
