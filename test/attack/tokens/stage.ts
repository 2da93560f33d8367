import {
  createHmac,
  generateKeyPairSync,
  randomUUIDv7,
  sign as signBytes,
  type KeyObject,
} from 'node:crypto';
import { ChangeFeed } from '../../../src/cluster/change-feed.ts';
import { CrossTenantPool } from '../../../src/postgres/pools.ts';
import { IssuersStore } from '../../../src/auth/issuers.ts';
import { issuerRegistrationSchema, newIssuer } from '../../../src/auth/registration.ts';
import { startService, type Service } from '../../support/app.ts';
import { createDatabase, type TestDatabase } from '../../support/database.ts';
import { startKeyServer, type KeyServer } from '../../support/key-server.ts';
import { openTransactions } from '../../support/pools.ts';
import { TEST_ISSUER, TEST_SECRET } from '../../support/tokens.ts';
import { doorsOfUsers, type Door } from './doors.ts';

/* A service with the issuer of its settings and five that were registered, each of another kind. All name their key `k1`. */

export const ACME = 'https://idp.acme.example/';
export const GLOBEX = 'https://idp.globex.example/';
export const INITECH = 'https://idp.initech.example/';
export const UMBRELLA = 'https://idp.umbrella.example/';
export const HOOLI = 'https://idp.hooli.example/';
export const INITECH_SECRET = 'the secret that initech and this service share';

export const KID = 'k1';
const SECRETS_KEY = 'the key that seals the secrets of issuers';

const rsa = () => generateKeyPairSync('rsa', { modulusLength: 2048 });
const elliptic = () => generateKeyPairSync('ec', { namedCurve: 'P-256' });

/** Key pairs by whose they are. `mallory` is nobody's issuer. */
export const KEYS = {
  acme: rsa(),
  globex: elliptic(),
  umbrella: elliptic(),
  hooli: generateKeyPairSync('ed25519'),
  mallory: rsa(),
  malloryElliptic: elliptic(),
};

export function jwkOf(key: KeyObject): Record<string, string> {
  const members = Object.entries(key.export({ format: 'jwk' }));
  return Object.fromEntries(
    members.flatMap(([name, value]) => (typeof value === 'string' ? [[name, value]] : [])),
  );
}

/** Makes the signature over `header.payload`. */
export type Signer = (input: Buffer) => Buffer;

export const rs256 =
  (key: KeyObject): Signer =>
  (input) =>
    signBytes('sha256', input, key);
export const es256 =
  (key: KeyObject): Signer =>
  (input) =>
    signBytes('sha256', input, { key, dsaEncoding: 'ieee-p1363' });
export const edDsa =
  (key: KeyObject): Signer =>
  (input) =>
    signBytes(null, input, key);
export const hs256 =
  (secret: string | Buffer): Signer =>
  (input) =>
    createHmac('sha256', secret).update(input).digest();
export const unsigned: Signer = () => Buffer.alloc(0);

/** A compact JWS of anything: text goes in as it is, all else as JSON. */
export function jws(header: unknown, payload: unknown, signer: Signer): string {
  const input = `${encoded(header)}.${encoded(payload)}`;
  return `${input}.${signer(Buffer.from(input)).toString('base64url')}`;
}

const encoded = (part: unknown): string =>
  Buffer.from(typeof part === 'string' ? part : JSON.stringify(part)).toString('base64url');

/** Names that stand nowhere but in hostile tokens: an answer or a log line that holds one has repeated a token. */
export const MARK = 'mallory-7c1f9a';

/** The claims of a token that would do anything in its tenant, if it were believed. */
export function claims(iss: string, change: object = {}): Record<string, unknown> {
  const now = Math.floor(Date.now() / 1000);
  return { iss, aud: 'tidings', sub: MARK, iat: now, exp: now + 600, jti: `${MARK}-jti`, ...change };
}

/** What every issuer here may grant. */
const SCOPES = ['notifications:publish', 'notifications:broadcast', 'history:read'];

/** The same as a service that may publish, also to everyone. */
export const serviceClaims = (iss: string, change: object = {}): Record<string, unknown> =>
  claims(iss, { scope: SCOPES.join(' '), ...change });

export interface Stage {
  readonly service: Service;
  readonly url: string;
  readonly database: TestDatabase;
  /** Where acme publishes its keys. */
  readonly keyServer: KeyServer;
  /** Everything that the token of a user opens. */
  readonly doors: readonly Door[];
  /** Every line of the log so far. */
  readonly log: readonly string[];
  /** Registers an issuer, and lets the service hear of it. */
  register(registration: object): Promise<void>;
  /** Another node with the same database. */
  startNode(): Promise<Service>;
  close(): Promise<void>;
}

export async function setStage(settings: Record<string, string> = {}): Promise<Stage> {
  const database = await createDatabase();
  const keyServer = await startKeyServer([
    { ...jwkOf(KEYS.acme.publicKey), kid: KID, alg: 'RS256', kty: 'RSA' },
  ]);
  const registered = await registrar(database);
  const register = (registration: object) => registered({ scopes: SCOPES, ...registration });
  const log: string[] = [];
  const startNode = () =>
    startService(
      { ISSUER_SECRETS_KEY: SECRETS_KEY, LOG_LEVEL: 'trace', ...settings },
      { database, logs: { write: (line: string) => void log.push(line) } },
    );
  const keysOf = (key: KeyObject) => ({ keys: [{ ...jwkOf(key), kid: KID }] });
  await register({ iss: ACME, jwksUrl: keyServer.url, algorithms: ['RS256'], tenant: 'acme' });
  await register({
    iss: GLOBEX,
    keys: keysOf(KEYS.globex.publicKey),
    algorithms: ['ES256'],
    tenants: ['globex', 'globex-eu'],
  });
  await register({ iss: INITECH, secret: INITECH_SECRET, tenant: 'initech' });
  await register({
    iss: UMBRELLA,
    keys: keysOf(KEYS.umbrella.publicKey),
    algorithms: ['ES256'],
    tenant: 'umbrella',
    claims: { scopes: ['/realm/roles'], topics: '/realm/topics' },
    requireAtJwt: true,
  });
  await register({
    iss: HOOLI,
    keys: keysOf(KEYS.hooli.publicKey),
    algorithms: ['EdDSA'],
    tenant: 'hooli',
  });
  const service = await startNode();
  return {
    service,
    url: service.url,
    database,
    keyServer,
    doors: await doorsOfUsers(service.url),
    log,
    async register(registration) {
      await register(registration);
      await service.app.get(ChangeFeed).now();
    },
    startNode,
    async close() {
      await service.close();
      await keyServer.close();
      await database.drop();
    },
  };
}

async function registrar(database: TestDatabase): Promise<Stage['register']> {
  return async (registration) => {
    const options = {
      url: database.urls.crossTenant,
      name: 'test',
      connections: 1,
      connectTimeoutMs: 60_000,
      statementTimeoutMs: 60_000,
      preparedStatements: false,
    };
    const pool = new CrossTenantPool(options);
    const transactions = await openTransactions(database, { connections: 1 });
    try {
      const id = randomUUIDv7();
      const state = newIssuer(
        id,
        issuerRegistrationSchema.parse({ audiences: ['tidings'], ...registration }),
        {
          JWT_ISSUER: TEST_ISSUER,
          ISSUER_SECRETS_KEY: SECRETS_KEY,
        },
      );
      const store = new IssuersStore(pool, pool);
      const record = await transactions.registry.transaction((entities) => store.insert(entities, id, state));
      if (record === 'iss-taken') throw new Error('The issuer is registered already.');
    } finally {
      await transactions.end();
      await pool.end();
    }
  };
}

/** Tokens that are good, one of each issuer: what is refused beside them is not refused for something that all have. */
export const GOOD: Record<string, () => string> = {
  settings: () =>
    jws({ alg: 'HS256' }, serviceClaims(TEST_ISSUER, { tenant_id: 'acme' }), hs256(TEST_SECRET)),
  acme: () => jws({ alg: 'RS256', kid: KID }, serviceClaims(ACME), rs256(KEYS.acme.privateKey)),
  globex: () =>
    jws(
      { alg: 'ES256', kid: KID },
      serviceClaims(GLOBEX, { tenant_id: 'globex' }),
      es256(KEYS.globex.privateKey),
    ),
  initech: () => jws({ alg: 'HS256' }, serviceClaims(INITECH), hs256(INITECH_SECRET)),
  umbrella: () =>
    jws(
      { alg: 'ES256', kid: KID, typ: 'at+jwt' },
      claims(UMBRELLA, { realm: { roles: ['notifications:publish'] } }),
      es256(KEYS.umbrella.privateKey),
    ),
  hooli: () => jws({ alg: 'EdDSA', kid: KID }, serviceClaims(HOOLI), edDsa(KEYS.hooli.privateKey)),
};
