import { randomBytes } from 'node:crypto';
import type { RequestListener } from 'node:http';
import { Provider } from 'oidc-provider';
import { requestToken, signIn, text } from './provider-browser.ts';
import {
  configuration,
  newKeys,
  resourceOf,
  USER_CLIENT,
  type Bearer,
  type Directory,
  type ProviderAlgorithm,
} from './provider-configuration.ts';
import { showOrSubmit } from './provider-pages.ts';
import { startRestartable } from './provider-server.ts';
import { ProviderStore } from './provider-store.ts';
import { TEST_AUDIENCE } from './tokens.ts';

interface ProviderOptions {
  /** Of every access token. Default: that of the service. */
  audience?: string;
  /** The claims beside those of OAuth. Default: `tenant_id`, `topics`, `device`. */
  claims?: (bearer: Bearer) => Record<string, unknown>;
  /** Default: a free one. */
  port?: number;
}

interface ServiceOptions {
  client?: string;
  /** The tenant that the client was registered for, at its first token. */
  tenant?: string;
  /** Separated by spaces. */
  scope?: string;
  alg?: ProviderAlgorithm;
}

interface UserOptions {
  user?: string;
  tenant?: string;
  topics?: string[];
  device?: string;
  alg?: ProviderAlgorithm;
}

/** An identity provider in this process: `oidc-provider` on loopback. */
export interface IdentityProvider {
  readonly issuer: string;
  readonly jwksUrl: string;
  /** The client through which users sign in; the audience of their ID tokens. */
  readonly userClient: string;
  /** How often its key set was asked for. */
  readonly keySetRequests: number;
  /** By client credentials (RFC 6749 §4.4): `billing` of `acme`, which may publish, unless told otherwise. */
  serviceToken(options?: ServiceOptions): Promise<string>;
  /** By authorization code with PKCE, page by page: `alice` of `acme` unless told otherwise. */
  userToken(options?: UserOptions): Promise<string>;
  /** The same, with the ID token that comes along (OpenID Connect Core §2). */
  userTokens(options?: UserOptions): Promise<{ accessToken: string; idToken: string }>;
  /** Signs with new keys from now on. The old ones stay in the key set, after the new, or are withdrawn. */
  rotateKeys(old: 'published' | 'withdrawn'): void;
  /** From now on its port refuses connections. */
  stop(): Promise<void>;
  /** Comes back under the same URL, with the same keys. */
  start(): Promise<void>;
}

const ownClaims = ({ tenant, topics, device }: Bearer): Record<string, unknown> => ({
  tenant_id: tenant,
  topics,
  device,
});

export async function startProvider({
  audience = TEST_AUDIENCE,
  claims = ownClaims,
  port,
}: ProviderOptions = {}): Promise<IdentityProvider> {
  const directory: Directory = { audience, claims, clients: new Map(), users: new Map() };
  const store = new ProviderStore();
  let keySetRequests = 0;
  let keys = newKeys();
  let handle: RequestListener;

  const server = await startRestartable((request, response) => {
    if (request.url === '/jwks') keySetRequests++;
    // Kept open, they would be cut by `stop`, perhaps while the next request of a test goes out on one.
    else response.shouldKeepAlive = false;
    handle(request, response);
  }, port);
  const issuer = server.url;
  // A provider reads its keys once; new keys are a new provider in front of the same store.
  const serve = (): void => {
    const provider = new Provider(issuer, configuration(directory, store, keys));
    const protocol = provider.callback();
    handle = (request, response) => {
      const page = request.url?.startsWith('/interaction/') === true;
      (page ? showOrSubmit(provider, directory, request, response) : protocol(request, response)).catch(
        (error: unknown) => response.writeHead(500).end(String(error)),
      );
    };
  };
  serve();

  const userTokens: IdentityProvider['userTokens'] = async ({
    user = 'alice',
    tenant = 'acme',
    topics = [],
    device,
    alg = 'RS256',
  } = {}) =>
    await signIn(issuer, USER_CLIENT, resourceOf(alg), [
      ['user', user],
      ['tenant', tenant],
      ...topics.map((topic) => ['topic', topic] as const),
      ...(device === undefined ? [] : [['device', device] as const]),
    ]);

  return {
    issuer,
    jwksUrl: `${issuer}/jwks`,
    userClient: USER_CLIENT.clientId,
    get keySetRequests() {
      return keySetRequests;
    },
    async serviceToken({
      client = 'billing',
      tenant = 'acme',
      scope = 'notifications:publish',
      alg = 'RS256',
    } = {}) {
      const secret = await registered(directory, store, client, tenant);
      const parameters = { grant_type: 'client_credentials', scope, resource: resourceOf(alg) };
      return text(await requestToken(issuer, parameters, { id: client, secret }), 'access_token');
    },
    userTokens,
    userToken: async (options) => (await userTokens(options)).accessToken,
    rotateKeys(old) {
      keys = [...newKeys(), ...(old === 'published' ? keys : [])];
      serve();
    },
    stop: () => server.stop(),
    start: () => server.start(),
  };
}

/** Registers a client as an administrator of the provider would, once; gives its secret. */
async function registered(
  { clients }: Directory,
  store: ProviderStore,
  client: string,
  tenant: string,
): Promise<string> {
  const known = clients.get(client) ?? { tenant, secret: randomBytes(32).toString('hex') };
  if (known.tenant !== tenant) throw new Error(`The client ${client} is registered for ${known.tenant}.`);
  if (!clients.has(client)) {
    clients.set(client, known);
    await store.adapter('Client').upsert(client, {
      client_id: client,
      client_secret: known.secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    });
  }
  return known.secret;
}
