import { createHmac, sign as signWith, type KeyObject } from 'node:crypto';

/** The HS256 secret of every application under test. */
export const TEST_SECRET = 'a secret of the tests, longer than thirty-two bytes';

/** What is in every token unless a test says otherwise; both are the defaults of the settings. */
export const TEST_ISSUER = 'tidings';
export const TEST_AUDIENCE = 'tidings';

interface CommonOptions {
  tenant?: string;
  /** From now; negative for a token that has expired. Default: an hour. */
  expiresInSeconds?: number;
  secret?: string;
  /** Further claims, or others in place of the usual ones; `undefined` leaves one out. */
  claims?: Record<string, unknown>;
}

export interface UserTokenOptions extends CommonOptions {
  user?: string;
  topics?: string[];
  device?: string;
}

export interface ServiceTokenOptions extends CommonOptions {
  client?: string;
  /** Separated by spaces. */
  scope?: string;
}

/** The token of a logged-in user: `alice` of `acme` unless told otherwise. */
export function userToken({
  tenant,
  user = 'alice',
  topics,
  device,
  ...rest
}: UserTokenOptions = {}): string {
  return token({ ...rest, tenant, claims: { sub: user, topics, device, ...rest.claims } });
}

/** The token of a service: `billing` of `acme`, which may publish, also to everyone, unless told otherwise. */
export function serviceToken(options: ServiceTokenOptions = {}): string {
  const { client = 'billing', scope = 'notifications:publish notifications:broadcast', claims } = options;
  return token({ ...options, claims: { sub: client, scope, ...claims } });
}

function token(options: { [Name in keyof CommonOptions]?: CommonOptions[Name] | undefined }): string {
  const { tenant = 'acme', expiresInSeconds = 3600, secret = TEST_SECRET, claims = {} } = options;
  const now = Math.floor(Date.now() / 1000);
  const payload = {
    iss: TEST_ISSUER,
    aud: TEST_AUDIENCE,
    iat: now,
    exp: now + expiresInSeconds,
    tenant_id: tenant,
    ...claims,
  };
  return sign(payload, { alg: 'HS256', typ: 'JWT' }, secret);
}

/**
 * A JWS of anything, however wrong (RFC 7515). The signature follows `alg`: HS256, RS256, PS256 and ES256 are made,
 * any other gets none.
 *
 * @param payload text is taken as it is, all else as JSON
 */
export function sign(
  payload: unknown,
  header: { alg: string; [name: string]: unknown },
  key: string | KeyObject,
): string {
  const input = `${encode(header)}.${encode(payload)}`;
  return `${input}.${signatureOf(input, header.alg, key).toString('base64url')}`;
}

function encode(value: unknown): string {
  return Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
}

function signatureOf(input: string, alg: string, key: string | KeyObject): Buffer {
  const bytes = Buffer.from(input);
  switch (alg) {
    case 'HS256':
      return createHmac('sha256', key).update(bytes).digest();
    case 'RS256':
      return signWith('sha256', bytes, key);
    case 'PS256':
      return signWith('sha256', bytes, { key: asPem(key), padding: 6, saltLength: 32 });
    case 'ES256':
      return signWith('sha256', bytes, { key: asPem(key), dsaEncoding: 'ieee-p1363' });
    default:
      return Buffer.alloc(0);
  }
}

function asPem(key: string | KeyObject): string {
  return typeof key === 'string' ? key : key.export({ type: 'pkcs8', format: 'pem' }).toString();
}
