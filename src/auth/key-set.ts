import { createPublicKey, type KeyObject } from 'node:crypto';
import { createLocalJWKSet } from 'jose';
import { z } from 'zod';
import { faultOfRsa, FixedKeys, keyIn, type KeyRequest } from './verification-keys.ts';

/** Kinds of public keys (RFC 7518 §6, RFC 8037 §2). */
export const KEY_TYPES = ['RSA', 'EC', 'OKP'] as const;

/** Far above any real key set; each lookup goes through all of them. */
export const MOST_KEYS = 100;

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
export const canonical = (alg: string): string => (alg === 'Ed25519' ? 'EdDSA' : alg);

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
