import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { errors, type Configuration, type JWK } from 'oidc-provider';
import { SERVICE_SCOPES } from '../../src/core/identifiers.ts';
import type { SignInClient } from './provider-browser.ts';
import type { ProviderStore } from './provider-store.ts';

export const PROVIDER_ALGORITHMS = ['RS256', 'ES256', 'EdDSA'] as const;
export type ProviderAlgorithm = (typeof PROVIDER_ALGORITHMS)[number];

/** For whom the provider issues a token; from this it makes the claims that OAuth does not know. */
export interface Bearer {
  /** The user, or the client. */
  readonly subject: string;
  readonly tenant: string;
  readonly topics?: readonly string[] | undefined;
  readonly device?: string | undefined;
  /** Granted to a client; a user has none. */
  readonly scopes: readonly string[];
}

export const USER_CLIENT: SignInClient = { clientId: 'web-app', redirectUri: 'http://127.0.0.1/signed-in' };

/** The algorithm of an access token is a property of what it is for (RFC 8707): one name per algorithm. */
export const resourceOf = (alg: ProviderAlgorithm): string => `urn:tidings:${alg}`;

/** What the provider knows about whom it issues tokens to. */
export interface Directory {
  readonly audience: string;
  readonly claims: (bearer: Bearer) => Record<string, unknown>;
  /** By client id. */
  readonly clients: Map<string, { tenant: string; secret: string }>;
  /** By the grant that a sign-in led to: the same person may be signed in here and there in different roles. */
  readonly users: Map<string, Bearer>;
}

/** One of each kind, with names that no other key has. */
export function newKeys(): JWK[] {
  const pairs = {
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    EdDSA: generateKeyPairSync('ed25519'),
  };
  return PROVIDER_ALGORITHMS.map((alg) => ({
    ...pairs[alg].privateKey.export({ format: 'jwk' }),
    kid: `${alg}-${randomUUID()}`,
    alg,
    use: 'sig',
  }));
}

/** The settings of the provider. They name everything that the provider would otherwise decide by itself and complain about on the console. */
export function configuration(directory: Directory, store: ProviderStore, keys: JWK[]): Configuration {
  const anybody: Bearer = { subject: '', tenant: '', topics: [], device: '', scopes: [] };
  const hour = 3600;
  return {
    adapter: store.adapter,
    jwks: { keys },
    cookies: { keys: [randomBytes(32).toString('hex')] },
    clients: [
      {
        client_id: USER_CLIENT.clientId,
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code'],
        response_types: ['code'],
        redirect_uris: [USER_CLIENT.redirectUri],
      },
    ],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => {
          const alg = PROVIDER_ALGORITHMS.find((one) => resource === resourceOf(one));
          if (alg === undefined) throw new errors.InvalidTarget();
          return {
            audience: directory.audience,
            scope: SERVICE_SCOPES.join(' '),
            accessTokenFormat: 'jwt',
            jwt: { sign: { alg } },
          };
        },
      },
    },
    pkce: { required: () => true },
    claims: { openid: ['sub', ...Object.keys(directory.claims(anybody))] },
    extraTokenClaims: (_, token) => {
      if ('grantId' in token) return directory.claims(userOf(directory, token.grantId));
      const subject = token.clientId ?? '';
      const tenant = directory.clients.get(subject)?.tenant ?? '';
      return directory.claims({ subject, tenant, scopes: token.scope?.split(' ') ?? [] });
    },
    findAccount: (_, user, source) => ({
      accountId: user,
      claims: () => ({
        ...(source === undefined ? {} : directory.claims(userOf(directory, source.grantId))),
        sub: user,
      }),
    }),
    interactions: { url: (_, { uid }) => `/interaction/${uid}` },
    renderError: (context, fields) => {
      context.body = fields;
    },
    ttl: {
      AccessToken: hour,
      ClientCredentials: hour,
      IdToken: hour,
      Interaction: hour,
      Session: hour,
      Grant: hour,
    },
  };
}

function userOf({ users }: Directory, grantId: string | undefined): Bearer {
  const bearer = users.get(grantId ?? '');
  if (bearer === undefined) throw new Error('Nobody signed in for this grant.');
  return bearer;
}
