import { createPublicKey, sign as signBytes, type KeyObject } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publish } from '../../support/api.ts';
import { TEST_ISSUER, TEST_SECRET } from '../../support/tokens.ts';
import { expectRefused } from './refused.ts';
import {
  ACME,
  edDsa,
  es256,
  GLOBEX,
  GOOD,
  HOOLI,
  hs256,
  INITECH,
  INITECH_SECRET,
  jwkOf,
  jws,
  KEYS,
  KID,
  rs256,
  serviceClaims,
  setStage,
  UMBRELLA,
  unsigned,
  type Signer,
  type Stage,
} from './stage.ts';

/* Issuer, then algorithm, then key: settled in this sequence by the registration (RFC 8725 §3.1, §3.8; RFC 9068 §4). */

let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
});
afterAll(async () => {
  await stage.close();
});

const ISSUERS: [name: string, iss: string, alg: string][] = [
  ['settings', TEST_ISSUER, 'HS256'],
  ['acme', ACME, 'RS256'],
  ['globex', GLOBEX, 'ES256'],
  ['initech', INITECH, 'HS256'],
  ['umbrella', UMBRELLA, 'ES256'],
  ['hooli', HOOLI, 'EdDSA'],
];
const typed = { kid: KID, typ: 'at+jwt' };

/** The claims of a service of a tenant that the issuer may speak for. */
const claimsOf = (iss: string) => serviceClaims(iss, { tenant_id: iss === GLOBEX ? 'globex' : 'acme' });

/** What an attacker may take for the secret that a public key is: every way to write it that is in use. */
function spellings(key: KeyObject, jwk: Record<string, string>): (string | Buffer)[] {
  const types = key.asymmetricKeyType === 'rsa' ? (['spki', 'pkcs1'] as const) : (['spki'] as const);
  const pems = types.map((type) => key.export({ type, format: 'pem' }).toString());
  return [
    ...pems,
    ...pems.map((pem) => pem.trim()),
    ...pems.map((pem) => pem.replaceAll('\n', '\r\n')),
    ...types.map((type) => key.export({ type, format: 'der' })),
    JSON.stringify(jwk),
    JSON.stringify({ ...jwk, kid: KID }),
    ...Object.values(jwk),
    ...Object.values(jwk).map((member) => Buffer.from(member, 'base64url')),
  ];
}

test.each(Object.entries(GOOD))('a good token of %s is taken', async (_, make) => {
  await publish(stage.url, make(), { to: { user: 'alice' }, type: 't', data: 1 });
});

describe('HS256 under a public key', () => {
  const publicKeys = [
    ['RSA', KEYS.acme.publicKey],
    ['elliptic', KEYS.globex.publicKey],
    ['Edwards', KEYS.hooli.publicKey],
  ] as const;
  // Under its own issuer nobody may sign with HS256; under one of HS256 that key is no secret.
  test.each(
    publicKeys.flatMap(([kind, key]) =>
      ISSUERS.map(([name, iss, alg]) => ({
        kind,
        key,
        name,
        iss,
        detail: alg === 'HS256' ? 'signature' : '`alg`',
      })),
    ),
  )('($kind) is refused of the issuer $name', async ({ key, iss, detail }) => {
    // One of each kind everywhere; all the others, which differ in the secret alone, at one door.
    const [first = '', ...others] = spellings(
      createPublicKey(key.export({ type: 'spki', format: 'pem' })),
      jwkOf(key),
    );
    const header = { alg: 'HS256', ...typed };
    await expectRefused(stage, jws(header, claimsOf(iss), hs256(first)), { detail });
    for (const secret of others) {
      const authorization = `Bearer ${jws(header, claimsOf(iss), hs256(secret))}`;
      const response = await fetch(`${stage.url}/v1/notifications`, { headers: { authorization } });
      expect({ status: response.status, body: await response.text() }).toMatchObject({
        status: 401,
        body: expect.stringContaining(detail),
      });
    }
  });
});

describe('a key of one issuer is none of another', () => {
  const rows: [name: string, alg: string, iss: string, signer: Signer, detail: string][] = [
    ['the secret of the settings under initech', 'HS256', INITECH, hs256(TEST_SECRET), 'signature'],
    ['the secret of the settings under acme', 'HS256', ACME, hs256(TEST_SECRET), '`alg`'],
    ['the secret of the settings under globex', 'HS256', GLOBEX, hs256(TEST_SECRET), '`alg`'],
    ['the secret of initech under the settings', 'HS256', TEST_ISSUER, hs256(INITECH_SECRET), 'signature'],
    ['the key of acme under the settings', 'RS256', TEST_ISSUER, rs256(KEYS.acme.privateKey), '`alg`'],
    ['the key of acme under globex', 'RS256', GLOBEX, rs256(KEYS.acme.privateKey), '`alg`'],
    ['the key of globex under umbrella', 'ES256', UMBRELLA, es256(KEYS.globex.privateKey), 'signature'],
    ['the key of umbrella under globex', 'ES256', GLOBEX, es256(KEYS.umbrella.privateKey), 'signature'],
    ['the key of hooli under globex', 'EdDSA', GLOBEX, edDsa(KEYS.hooli.privateKey), '`alg`'],
    ['the key of globex under hooli', 'EdDSA', HOOLI, es256(KEYS.globex.privateKey), 'signature'],
    ['the secret of the settings under hooli', 'EdDSA', HOOLI, hs256(TEST_SECRET), 'signature'],
    ['the key of nobody under acme', 'RS256', ACME, rs256(KEYS.mallory.privateKey), 'signature'],
    ['the key of nobody under globex', 'ES256', GLOBEX, es256(KEYS.malloryElliptic.privateKey), 'signature'],
  ];
  test.each(rows)('%s, by the same `kid`', async (_, alg, iss, signer, detail) => {
    await expectRefused(stage, jws({ alg, ...typed }, claimsOf(iss), signer), { detail });
  });

  test.each(rows)('%s, without any', async (_, alg, iss, signer, detail) => {
    await expectRefused(stage, jws({ alg, typ: 'at+jwt' }, claimsOf(iss), signer), { detail });
  });
});

describe('an algorithm that says that nothing was signed', () => {
  test.each(
    ['none', 'None', 'NONE', 'nOnE', 'none ', 'none\u0000', 'n\u043ene', ''].flatMap((alg) =>
      ISSUERS.map(([name, iss]) => ({ alg, name, iss })),
    ),
  )('($alg) is refused of the issuer $name', async ({ alg, iss }) => {
    const token = jws({ alg, ...typed }, claimsOf(iss), unsigned);
    await expectRefused(stage, token, { detail: '`alg`' });
  });

  test('is refused with the signature of a good token behind it', async () => {
    for (const make of Object.values(GOOD)) {
      const [, payload = '', signature = ''] = make().split('.');
      const header = Buffer.from(JSON.stringify({ alg: 'none', ...typed })).toString('base64url');
      await expectRefused(stage, `${header}.${payload}.${signature}`, { detail: '`alg`' });
    }
  });
});

describe('an algorithm that is not that of the registration', () => {
  const pss: Signer = (input) =>
    signBytes('sha256', input, { key: KEYS.acme.privateKey, padding: 6, saltLength: 32 });
  const rs512: Signer = (input) => signBytes('sha512', input, KEYS.acme.privateKey);
  const rows: [alg: unknown, iss: string, signer: Signer, detail: string][] = [
    ['PS256', ACME, pss, '`alg`'],
    ['RS512', ACME, rs512, '`alg`'],
    ['RS1', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    ['rs256', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    ['RS256 ', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    ['RS256\u0000', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    ['RSA-SHA256', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    ['HS256', ACME, hs256(''), '`alg`'],
    ['HS384', INITECH, hs256(INITECH_SECRET), '`alg`'],
    ['ES256K', GLOBEX, es256(KEYS.globex.privateKey), '`alg`'],
    ['ES384', GLOBEX, es256(KEYS.globex.privateKey), '`alg`'],
    ['EdDSA', GLOBEX, es256(KEYS.globex.privateKey), '`alg`'],
    ['RSA-OAEP', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    ['dir', INITECH, hs256(INITECH_SECRET), '`alg`'],
    ['__proto__', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    ['constructor', ACME, rs256(KEYS.acme.privateKey), '`alg`'],
    [['RS256'], ACME, rs256(KEYS.acme.privateKey), 'not a signed'],
    [{ name: 'RS256' }, ACME, rs256(KEYS.acme.privateKey), 'not a signed'],
    [null, ACME, rs256(KEYS.acme.privateKey), 'not a signed'],
    [true, ACME, rs256(KEYS.acme.privateKey), 'not a signed'],
    [undefined, ACME, rs256(KEYS.acme.privateKey), 'not a signed'],
  ];
  test.each(rows)('(%j of %s) is refused', async (alg, iss, signer, detail) => {
    await expectRefused(stage, jws({ alg, ...typed }, claimsOf(iss), signer), { detail });
  });
});

describe('a signature that is none', () => {
  const rows: [name: string, alg: string, iss: string, signer: Signer][] = [
    ['nothing, for HS256', 'HS256', TEST_ISSUER, unsigned],
    ['nothing, for RS256', 'RS256', ACME, unsigned],
    ['nothing, for ES256', 'ES256', GLOBEX, unsigned],
    // r = s = 0 was good for every message in one well-known library.
    ['zeros, for ES256', 'ES256', GLOBEX, () => Buffer.alloc(64)],
    [
      'ones, for ES256',
      'ES256',
      GLOBEX,
      () => Buffer.from([...Array<number>(31).fill(0), 1, ...Array<number>(31).fill(0), 1]),
    ],
    ['ASN.1, for ES256', 'ES256', GLOBEX, (input) => signBytes('sha256', input, KEYS.globex.privateKey)],
    ['nothing, for EdDSA', 'EdDSA', HOOLI, unsigned],
    ['zeros, for EdDSA', 'EdDSA', HOOLI, () => Buffer.alloc(64)],
    [
      'too long by a byte, for EdDSA',
      'EdDSA',
      HOOLI,
      (input) => Buffer.concat([edDsa(KEYS.hooli.privateKey)(input), Buffer.of(0)]),
    ],
    ['zeros, for RS256', 'RS256', ACME, () => Buffer.alloc(256)],
    ['a one, for RS256', 'RS256', ACME, () => Buffer.from([...Array<number>(255).fill(0), 1])],
    [
      'too long by a byte, for RS256',
      'RS256',
      ACME,
      (input) => Buffer.concat([rs256(KEYS.acme.privateKey)(input), Buffer.of(0)]),
    ],
    ['the half of it, for HS256', 'HS256', INITECH, (input) => hs256(INITECH_SECRET)(input).subarray(0, 16)],
    ['an empty secret, for HS256', 'HS256', INITECH, hs256('')],
    ['the secret of another spelling, for HS256', 'HS256', INITECH, hs256(`${INITECH_SECRET}\n`)],
  ];
  test.each(rows)('(%s) is refused', async (_, alg, iss, signer) => {
    await expectRefused(stage, jws({ alg, ...typed }, claimsOf(iss), signer), { detail: 'signature' });
  });

  test.each(Object.keys(GOOD))(
    'is one of %s in another spelling (RFC 7515 §2: base64url without anything else)',
    async (name) => {
      const [header = '', payload = '', signature = ''] = (GOOD[name]?.() ?? '').split('.');
      for (const other of [
        `${signature}=`,
        `${signature}~`,
        `~${signature}`,
        `${signature.slice(0, 9)}~~${signature.slice(9)}`,
      ]) {
        await expectRefused(stage, `${header}.${payload}.${other}`, { detail: 'signature' });
      }
    },
  );

  test('is one of other claims', async () => {
    for (const [name, iss] of ISSUERS) {
      const [header = '', , signature = ''] = (GOOD[name]?.() ?? '').split('.');
      const payload = Buffer.from(JSON.stringify({ ...claimsOf(iss), sub: 'mallory-exchanged' })).toString(
        'base64url',
      );
      await expectRefused(stage, `${header}.${payload}.${signature}`, { detail: 'signature' });
    }
  });
});

describe('a type that is not that of an access token', () => {
  test.each(['logout+jwt', 'dpop+jwt', 'secevent+jwt', 'id+jwt', 'mallory', 'at+jwt+mallory', ''])(
    '(%j) is refused of every issuer (RFC 8725 §3.11)',
    async (typ) => {
      const token = jws({ alg: 'RS256', kid: KID, typ }, claimsOf(ACME), rs256(KEYS.acme.privateKey));
      await expectRefused(stage, token, { detail: '`typ`' });
    },
  );

  test.each([undefined, 'JWT', 'jwt', 'application/jwt'])(
    '(%j) is refused of an issuer that has to name it (RFC 9068 §4)',
    async (typ) => {
      const token = jws({ alg: 'ES256', kid: KID, typ }, claimsOf(UMBRELLA), es256(KEYS.umbrella.privateKey));
      await expectRefused(stage, token, { detail: '`typ`' });
    },
  );
});
