import { createHash, randomBytes } from 'node:crypto';

/** What a person types into the sign-in page of the provider. */
export type SignInForm = readonly (readonly [name: string, value: string])[];

interface Cookie {
  readonly name: string;
  readonly value: string;
  readonly path: string;
}

/** A browser as far as a sign-in needs one: it keeps cookies by name and path (RFC 6265) and shows every redirect. */
class Browser {
  readonly #cookies = new Map<string, Cookie>();

  async fetch(url: URL, form?: SignInForm): Promise<Response> {
    const response = await fetch(url, {
      redirect: 'manual',
      headers: { cookie: this.#cookiesFor(url.pathname) },
      ...(form === undefined ? {} : { method: 'POST', body: formBody(form) }),
    });
    for (const line of response.headers.getSetCookie()) this.#keep(line);
    return response;
  }

  #cookiesFor(path: string): string {
    return [...this.#cookies.values()]
      .filter((cookie) => path === cookie.path || path.startsWith(cookie.path.replace(/\/?$/, '/')))
      .map(({ name, value }) => `${name}=${value}`)
      .join('; ');
  }

  #keep(line: string): void {
    const [pair = '', ...attributes] = line.split('; ');
    const name = pair.slice(0, pair.indexOf('='));
    const value = pair.slice(name.length + 1);
    const path = attributes.find((attribute) => /^path=/i.test(attribute))?.slice('path='.length) ?? '/';
    if (value === '') this.#cookies.delete(`${name} ${path}`);
    else this.#cookies.set(`${name} ${path}`, { name, value, path });
  }
}

function formBody(form: SignInForm): URLSearchParams {
  const body = new URLSearchParams();
  for (const [name, value] of form) body.append(name, value);
  return body;
}

/** An application that signs its users in: a public client of the provider. */
export interface SignInClient {
  readonly clientId: string;
  readonly redirectUri: string;
}

/**
 * Walks through the authorization code flow with PKCE (RFC 6749 §4.1, RFC 7636) as a browser and the application
 * in it do: authorize, sign in, consent, code, token.
 *
 * @param resource what the access token is for (RFC 8707)
 */
export async function signIn(
  issuer: string,
  { clientId, redirectUri }: SignInClient,
  resource: string,
  form: SignInForm,
): Promise<{ accessToken: string; idToken: string }> {
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(16).toString('base64url');
  const authorize = new URL(`${issuer}/auth`);
  authorize.search = new URLSearchParams({
    client_id: clientId,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'openid',
    resource,
    state,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  }).toString();

  const answer = await authorization(authorize, redirectUri, form);
  // RFC 9207: the code is taken only from the issuer that was asked.
  if (answer.get('state') !== state || answer.get('iss') !== issuer) {
    throw new Error(`The provider did not answer this sign-in: ${answer.toString()}`);
  }
  const tokens = await requestToken(issuer, {
    grant_type: 'authorization_code',
    client_id: clientId,
    redirect_uri: redirectUri,
    resource,
    code: answer.get('code') ?? '',
    code_verifier: verifier,
  });
  return { accessToken: text(tokens, 'access_token'), idToken: text(tokens, 'id_token') };
}

/** Follows redirects and fills in the pages on the way, until the provider sends the browser back to the application. */
async function authorization(start: URL, redirectUri: string, form: SignInForm): Promise<URLSearchParams> {
  const browser = new Browser();
  let at = start;
  let response = await browser.fetch(at);
  for (let hops = 0; hops < 10; hops++) {
    const location = response.headers.get('location');
    const page = await response.text();
    if (location === null) {
      const prompt = /name="prompt" value="(\w+)"/.exec(page)?.[1];
      if (response.status !== 200 || prompt === undefined) {
        throw new Error(`The provider answered ${response.status} at ${at.pathname}: ${page}`);
      }
      response = await browser.fetch(at, [['prompt', prompt], ...(prompt === 'login' ? form : [])]);
    } else {
      at = new URL(location, at);
      if (`${at.origin}${at.pathname}` === redirectUri) return at.searchParams;
      response = await browser.fetch(at);
    }
  }
  throw new Error('The provider sends the browser in circles.');
}

/**
 * Asks the token endpoint (RFC 6749 §3.2).
 *
 * @param client who asks, with its secret (§2.3.1); without it the parameters name a public client
 */
export async function requestToken(
  issuer: string,
  parameters: Record<string, string>,
  client?: { id: string; secret: string },
): Promise<Record<string, unknown>> {
  const basic =
    client === undefined ? undefined : [client.id, client.secret].map(encodeURIComponent).join(':');
  const response = await fetch(`${issuer}/token`, {
    method: 'POST',
    headers: basic === undefined ? {} : { authorization: `Basic ${Buffer.from(basic).toString('base64')}` },
    body: new URLSearchParams(parameters),
  });
  const body = await response.text();
  if (response.status !== 200) throw new Error(`The token endpoint answered ${response.status}: ${body}`);
  return JSON.parse(body) as Record<string, unknown>;
}

export function text(tokens: Record<string, unknown>, name: string): string {
  const token = tokens[name];
  if (typeof token !== 'string') throw new Error(`The token endpoint answered without ${name}.`);
  return token;
}
