import { createServer, type RequestListener } from 'node:http';
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWK } from 'jose';

/** A key of an issuer: what it signs with, and what it publishes. */
export interface IssuerKey {
  readonly alg: string;
  readonly kid: string;
  readonly privateKey: CryptoKey;
  readonly jwk: JWK;
}

export async function issuerKey(alg: string, kid: string, published: Partial<JWK> = {}): Promise<IssuerKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return {
    alg,
    kid,
    privateKey,
    jwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig', ...published },
  };
}

/**
 * A token as an identity provider makes it: for `alice` of `acme`, good for an hour.
 *
 * @param kid the name of the key in the header, null for none
 */
export function issue(key: IssuerKey, kid: string | null = key.kid): Promise<string> {
  return new SignJWT({ tenant_id: 'acme' })
    .setProtectedHeader({ alg: key.alg, ...(kid === null ? {} : { kid }) })
    .setIssuer('tidings')
    .setAudience('tidings')
    .setSubject('alice')
    .setExpirationTime('1h')
    .sign(key.privateKey);
}

/** The key server of an issuer. */
export interface KeyServer {
  readonly url: string;
  /** Paths that were asked for so far. */
  readonly asked: string[];
  /** What it publishes; may be changed at any time. */
  keys: JWK[];
  /** Answers in place of the key set while it is set. */
  fault: RequestListener | undefined;
  close(): Promise<void>;
}

export async function startKeyServer(keys: JWK[] = []): Promise<KeyServer> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    if (keyServer.fault !== undefined) return keyServer.fault(request, response);
    response.setHeader('content-type', 'application/jwk-set+json');
    return response.end(JSON.stringify({ keys: keyServer.keys }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The key server has no port.');
  const keyServer: KeyServer = {
    url: `http://127.0.0.1:${address.port}/keys`,
    asked,
    keys,
    fault: undefined,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return keyServer;
}
