import type { ServiceScope, TenantId } from '../core/identifiers.ts';
import { type RemoteKeys, SharedSecret, type VerificationKeys, within } from './keys.ts';
import { ASYMMETRIC_ALGORITHMS, type Config } from '../core/config.ts';

/** Signatures that an issuer can be registered with. */
export const ALGORITHMS = ['HS256', ...ASYMMETRIC_ALGORITHMS] as const;
export type Algorithm = (typeof ALGORITHMS)[number];

/**
 * Where the tokens of an issuer say what. A claim is named by its top-level name, or by a JSON pointer (RFC 6901) if it
 * begins with a slash: `/realm_access/roles`.
 */
export interface ClaimNames {
  readonly tenant: string;
  readonly user: string;
  readonly topics: string;
  readonly device: string;
  /** The scopes of all of them count together. */
  readonly scopes: readonly string[];
}

export const DEFAULT_CLAIMS: ClaimNames = {
  tenant: 'tenant_id',
  user: 'sub',
  topics: 'topics',
  device: 'device',
  scopes: ['scope'],
};

/** Which tenants the tokens of an issuer may speak for. */
export type IssuerTenants =
  | { readonly kind: 'any' }
  | { readonly kind: 'fixed'; readonly tenantId: TenantId }
  | { readonly kind: 'listed'; readonly tenantIds: ReadonlySet<TenantId> };

/** Who may sign tokens, and what those may say. Never altered: a changed registration is another object. */
export interface Issuer {
  /** A UUID; `environment` for the issuer that the settings name. */
  readonly id: string;
  readonly iss: string;
  /** Grows with every change of the registration. */
  readonly version: number;
  readonly status: 'active' | 'disabled';
  readonly algorithms: readonly Algorithm[];
  readonly audiences: readonly string[];
  readonly tenants: IssuerTenants;
  readonly claims: ClaimNames;
  /** Service scopes that its tokens may carry; a token with another one is refused whole. */
  readonly scopes: ReadonlySet<ServiceScope>;
  /** Whether its tokens have to be of the type `at+jwt` (RFC 9068 §4). */
  readonly requireAtJwt: boolean;
  /** ms since 1970; tokens issued before it, or without saying when, are refused. */
  readonly revokedBefore: number | undefined;
  /** For the algorithms above and no others. */
  readonly keys: VerificationKeys;
}

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
