import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import type { Answer } from './api.ts';
import { serviceToken, sign } from './tokens.ts';

export interface Fault {
  pointer: string;
  detail: string;
}
export interface ProblemBody {
  code: string;
  detail: string;
  errors?: Fault[];
}
export interface Page<Item> {
  items: Item[];
  nextCursor: string | null;
}

/** An administrator of the installation, an operator and a reader of history, each with one scope. */
export const adminOf = (tenant: string) =>
  serviceToken({ tenant, client: 'console', scope: 'tenants:admin' });
export const operatorOf = (tenant: string) =>
  serviceToken({ tenant, client: 'operator', scope: 'operations:write' });
export const readerOf = (tenant: string) => serviceToken({ tenant, client: 'reader', scope: 'history:read' });

/** Any request. A body goes out as JSON. */
export async function call<Body = Record<string, unknown>>(
  method: string,
  url: string,
  token: string | undefined,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer<Body>> {
  const response = await fetch(url, {
    method,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    body: JSON.parse(text === '' ? '{}' : text) as Body,
  };
}

/** An identity provider that needs no server: its public key is registered by value. */
export class KeyIssuer {
  readonly #key: KeyObject;
  readonly jwks: { keys: Record<string, unknown>[] };

  constructor(readonly iss: string) {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    this.#key = privateKey;
    this.jwks = { keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'ES256', use: 'sig' }] };
  }

  /** What POST /v1/issuers takes. */
  registration(more: Record<string, unknown>): Record<string, unknown> {
    return { iss: this.iss, keys: this.jwks, algorithms: ['ES256'], audiences: ['tidings'], ...more };
  }

  token(claims: Record<string, unknown>): string {
    const now = Math.floor(Date.now() / 1000);
    const payload = { iss: this.iss, aud: 'tidings', iat: now, exp: now + 3_600, ...claims };
    return sign(payload, { alg: 'ES256', typ: 'JWT', kid: 'k1' }, this.#key);
  }
}
