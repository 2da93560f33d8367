import type { Config } from '../core/config.ts';
import { DEFAULT_CLAIMS, type Algorithm, type Issuer } from './issuer.ts';
import type { RemoteKeys } from './remote-keys.ts';
import { SharedSecret, within, type VerificationKeys } from './verification-keys.ts';

/** What the tokens of the issuer that the settings name may say: anything, of any tenant. */
export const environmentRules = ({
  JWT_ISSUER,
  JWT_AUDIENCE,
  JWT_SCOPES,
}: Pick<Config, 'JWT_ISSUER' | 'JWT_AUDIENCE' | 'JWT_SCOPES'>) =>
  ({
    iss: JWT_ISSUER,
    audiences: [JWT_AUDIENCE],
    tenants: { kind: 'any' },
    claims: DEFAULT_CLAIMS,
    scopes: new Set(JWT_SCOPES),
  }) as const satisfies Partial<Issuer>;

/** The issuer that the settings name. */
export function environmentIssuer(config: Config, remoteKeys: (url: string) => RemoteKeys): Issuer {
  const { algorithms, keys } = keysOf(config, remoteKeys);
  return {
    ...environmentRules(config),
    id: 'environment',
    version: 0,
    status: 'active',
    algorithms,
    requireAtJwt: config.JWT_REQUIRE_AT_JWT,
    revokedBefore: undefined,
    keys: within(algorithms, keys),
  };
}

function keysOf(
  { JWT_SECRET, JWKS_URL, JWKS_ALGORITHMS }: Config,
  remoteKeys: (url: string) => RemoteKeys,
): { readonly algorithms: readonly Algorithm[]; readonly keys: VerificationKeys } {
  if (JWT_SECRET !== undefined) return { algorithms: ['HS256'], keys: new SharedSecret(JWT_SECRET) };
  if (JWKS_URL !== undefined) return { algorithms: JWKS_ALGORITHMS, keys: remoteKeys(JWKS_URL) };
  throw new Error('Neither JWT_SECRET nor JWKS_URL is set.');
}
