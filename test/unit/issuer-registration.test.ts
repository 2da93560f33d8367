import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { parseBody, JsonBody } from '../../src/http/json-body.ts';
import {
  newIssuer,
  patchedIssuer,
  issuerPatchSchema,
  issuerRegistrationSchema,
} from '../../src/auth/registration.ts';

const ID = '0190a0f0-0000-7000-8000-000000000001';
const RULES = { JWT_ISSUER: 'tidings', ISSUER_SECRETS_KEY: 'k'.repeat(32) };
const SECRET = 's'.repeat(32);

const MINIMAL = {
  iss: 'https://idp.example/',
  jwksUrl: 'https://idp.example/keys',
  audiences: ['https://tidings.example'],
  tenant: 'acme',
};
const WITHOUT_KEYS = { iss: MINIMAL.iss, audiences: MINIMAL.audiences, tenant: MINIMAL.tenant };

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const ed = generateKeyPairSync('ed25519');
const rsaJwk = { ...rsa.publicKey.export({ format: 'jwk' }), kid: 'r1' };
const ecJwk = { ...ec.publicKey.export({ format: 'jwk' }), kid: 'e1' };
const edJwk = { ...ed.publicKey.export({ format: 'jwk' }), kid: 'd1' };

const bodyOf = (value: unknown) => new JsonBody(Buffer.alloc(0), JSON.stringify(value));
const register = (value: unknown, rules: Parameters<typeof newIssuer>[2] = RULES) =>
  newIssuer(ID, parseBody(issuerRegistrationSchema, bodyOf(value)), rules);
const patch = (current: ReturnType<typeof register>, value: unknown, rules = RULES) =>
  patchedIssuer({ ...current, id: ID }, parseBody(issuerPatchSchema, bodyOf(value)), rules);

const refusal = (...pointers: string[]) =>
  expect.objectContaining({
    code: 'validation_failed',
    errors: pointers.map((pointer) => expect.objectContaining({ pointer })),
  });

function thrownBy(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe('a registration', () => {
  test('grants no more than it says: one tenant, RS256, the scopes of a backend', () => {
    expect(register(MINIMAL)).toEqual({
      iss: 'https://idp.example/',
      name: null,
      status: 'active',
      sealedSecret: null,
      revokedBefore: null,
      definition: {
        jwksUrl: 'https://idp.example/keys',
        algorithms: ['RS256'],
        audiences: ['https://tidings.example'],
        tenant: 'acme',
        claims: { tenant: 'tenant_id', user: 'sub', topics: 'topics', device: 'device', scopes: ['scope'] },
        scopes: ['notifications:publish', 'history:read'],
        requireAtJwt: false,
      },
    });
  });

  test('carries administrative scopes only if they are named, or none at all', () => {
    expect(register({ ...MINIMAL, scopes: ['tenants:admin'] }).definition.scopes).toEqual(['tenants:admin']);
    expect(register({ ...MINIMAL, scopes: [] }).definition.scopes).toEqual([]);
  });

  test('names the claims that differ, nested ones by a pointer; the others stay as they are', () => {
    const claims = { tenant: 'https://acme.example/tenant', scopes: ['scope', '/realm_access/roles'] };
    expect(register({ ...MINIMAL, claims }).definition.claims).toEqual({
      tenant: 'https://acme.example/tenant',
      user: 'sub',
      topics: 'topics',
      device: 'device',
      scopes: ['scope', '/realm_access/roles'],
    });
  });

  test('keeps of a key what makes the public key, and nothing else', () => {
    const keys = { keys: [{ ...rsaJwk, use: 'sig', x5c: ['…'], 'x5t#S256': '…' }] };
    const { definition } = register({ ...WITHOUT_KEYS, keys, algorithms: ['PS256'] });
    expect(definition.keys).toEqual({ keys: [{ ...rsaJwk, use: 'sig' }] });
  });

  test('keeps a secret sealed, and makes it HS256', () => {
    const state = register({ ...WITHOUT_KEYS, secret: SECRET });
    expect(state.definition.algorithms).toEqual(['HS256']);
    expect(state.sealedSecret).toBeInstanceOf(Buffer);
    expect(JSON.stringify(state)).not.toContain(SECRET);
  });

  test('with a secret is refused by a service that could not keep it', () => {
    const error = thrownBy(() =>
      register({ ...WITHOUT_KEYS, secret: SECRET }, { JWT_ISSUER: 'tidings', ISSUER_SECRETS_KEY: undefined }),
    );
    expect(error).toEqual(refusal('/secret'));
    expect(JSON.stringify(error)).toContain('ISSUER_SECRETS_KEY');
    expect(JSON.stringify(error)).not.toContain(SECRET);
  });

  test('of the issuer that the settings name is refused', () => {
    expect(thrownBy(() => register({ ...MINIMAL, iss: 'tidings' }))).toMatchObject({ code: 'issuer_exists' });
  });

  const algorithms = (...names: string[]) => ({ algorithms: names });
  const keys = (...members: object[]) => ({
    jwksUrl: undefined,
    keys: { keys: members },
    ...algorithms('RS256', 'ES256', 'EdDSA'),
  });
  const { n, e } = rsaJwk;
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ format: 'jwk' });

  test.each<[string, object, string[]]>([
    ['without an issuer', { iss: undefined }, ['/iss']],
    ['with an empty issuer', { iss: '' }, ['/iss']],
    ['with a control character in the issuer', { iss: 'https://idp.example/\n' }, ['/iss']],
    ['with a member that is not known', { issuer: 'x' }, ['/issuer']],
    ['without keys', { jwksUrl: undefined }, ['/jwksUrl']],
    ['with two sources of keys', { secret: SECRET, ...algorithms('HS256') }, ['/secret']],
    ['without audiences', { audiences: undefined }, ['/audiences']],
    ['with no audience', { audiences: [] }, ['/audiences']],
    ['with an empty audience', { audiences: [''] }, ['/audiences/0']],
    ['with the same audience twice', { audiences: ['a', 'a'] }, ['/audiences']],
    ['without a tenant', { tenant: undefined }, ['/tenant']],
    ['with one tenant and a list', { tenants: ['acme'] }, ['/tenant']],
    ['with an empty list of tenants', { tenant: undefined, tenants: [] }, ['/tenants']],
    ['with what cannot be a tenant', { tenant: 'аcme' }, ['/tenant']],
    ['with every tenant', { tenant: '*' }, ['/tenant']],
    ['with an algorithm that is not known', algorithms('RS256', 'none'), ['/algorithms/1']],
    ['with no algorithm', algorithms(), ['/algorithms']],
    ['with HS256 and a key set', algorithms('HS256'), ['/algorithms']],
    ['with HS256 beside others and a key set', algorithms('RS256', 'HS256'), ['/algorithms']],
    [
      'with a secret and another algorithm',
      { jwksUrl: undefined, secret: SECRET, ...algorithms('RS256') },
      ['/algorithms'],
    ],
    [
      'with a secret and HS256 beside another',
      { jwksUrl: undefined, secret: SECRET, ...algorithms('HS256', 'RS256') },
      ['/algorithms'],
    ],
    ['with a short secret', { jwksUrl: undefined, secret: 'ü'.repeat(15) }, ['/secret']],
    ['with a scope that is none of the service', { scopes: ['admin'] }, ['/scopes/0']],
    ['with a claim name that is no pointer', { claims: { tenant: '/a~b' } }, ['/claims/tenant']],
    ['with an empty claim name', { claims: { user: '' } }, ['/claims/user']],
    ['with a claim that is not known', { claims: { email: 'email' } }, ['/claims/email']],
    ['with no claim for scopes', { claims: { scopes: [] } }, ['/claims/scopes']],
    ['with keys over http', { jwksUrl: 'http://idp.example/keys' }, ['/jwksUrl']],
    [
      'with keys over http from a name that looks like loopback',
      { jwksUrl: 'http://127.0.0.1.example/keys' },
      ['/jwksUrl'],
    ],
    ['with keys from a file', { jwksUrl: 'file:///etc/keys' }, ['/jwksUrl']],
    ['with keys from no URL', { jwksUrl: 'idp.example/keys' }, ['/jwksUrl']],
    ['with a password in the URL', { jwksUrl: 'https://me:pw@idp.example/keys' }, ['/jwksUrl']],
    ['with a fragment in the URL', { jwksUrl: 'https://idp.example/keys#1' }, ['/jwksUrl']],
    ['with keys and no algorithm', { jwksUrl: undefined, keys: { keys: [rsaJwk] } }, ['/algorithms']],
    ['with an empty key set', keys(), ['/keys/keys']],
    [
      'with more keys than anybody has',
      keys(...Array.from({ length: 101 }, (_, i) => ({ ...edJwk, kid: `${i}` }))),
      ['/keys/keys'],
    ],
    ['with a secret among the keys', keys({ kty: 'oct', k: 'c2VjcmV0' }), ['/keys/keys/0/kty']],
    ['with a key of the name of another', keys(rsaJwk, { ...ecJwk, kid: 'r1' }), ['/keys/keys/1/kid']],
    [
      'with a key without a name beside others',
      keys(rsaJwk, { ...ecJwk, kid: undefined }),
      ['/keys/keys/1/kid'],
    ],
    ['with a key whose name cannot be stored', keys({ ...edJwk, kid: 'd\u0000' }), ['/keys/keys/0/kid']],
    [
      'with a key for what cannot be stored',
      keys({ ...edJwk, key_ops: ['verify', '\ud800'] }),
      ['/keys/keys/0/key_ops/1'],
    ],
    ['with a key that is none', keys({ kty: 'RSA', n }), ['/keys/keys/0']],
    ['with a key that is too short', keys(weak), ['/keys/keys/0']],
    ['with a key to encrypt with', keys({ kty: 'RSA', n, e, use: 'enc' }), ['/keys/keys/0']],
    [
      'with a key that is not to verify with',
      keys({ kty: 'RSA', n, e, key_ops: ['wrapKey'] }),
      ['/keys/keys/0'],
    ],
    ['with a key for another algorithm', keys({ kty: 'RSA', n, e, alg: 'PS256' }), ['/keys/keys/0']],
    [
      'with a key that no algorithm can use',
      { ...keys(rsaJwk), ...algorithms('ES256', 'EdDSA') },
      ['/keys/keys/0'],
    ],
    ['with a key on another curve', { ...keys(ecJwk), ...algorithms('ES384') }, ['/keys/keys/0']],
  ])('%s is refused, and the answer points there', (_, change, pointers) => {
    expect(thrownBy(() => register(JSON.parse(JSON.stringify({ ...MINIMAL, ...change }))))).toEqual(
      refusal(...pointers),
    );
  });

  test('with a private key is refused whichever member gives it away, and the answer does not repeat it', () => {
    const { d, p } = rsa.privateKey.export({ format: 'jwk' });
    const error = thrownBy(() =>
      register({ ...MINIMAL, ...keys({ kty: 'RSA', n, e, d, p }), jwksUrl: undefined }),
    );
    expect(error).toEqual(refusal('/keys/keys/0/d', '/keys/keys/0/p'));
    expect(JSON.stringify(error)).not.toContain(d);
    const curve = ed.privateKey.export({ format: 'jwk' });
    expect(thrownBy(() => register({ ...WITHOUT_KEYS, ...keys(curve) }))).toEqual(refusal('/keys/keys/0/d'));
  });

  test.each([
    'http://127.0.0.1:8080/keys',
    'http://localhost/keys',
    'http://[::1]:9/keys',
    'HTTPS://idp.example/keys?tenant=a',
  ])('may take its keys from %s', (jwksUrl) => {
    expect(register({ ...MINIMAL, jwksUrl }).definition.jwksUrl).toBe(jwksUrl);
  });

  test('takes keys of every kind, Ed25519 under both of its names', () => {
    const set = [rsaJwk, ecJwk, { ...edJwk, alg: 'Ed25519' }, { ...edJwk, kid: 'd2', alg: 'EdDSA' }];
    const { definition } = register({ ...WITHOUT_KEYS, ...keys(...set) });
    expect(definition.keys?.keys.map(({ kid }) => kid)).toEqual(['r1', 'e1', 'd1', 'd2']);
  });
});

test('the registrations in the documentation are valid', () => {
  const text = readFileSync(
    new URL('../../docs/how-to/connect-an-identity-provider.md', import.meta.url),
    'utf8',
  );
  const blocks = [...text.matchAll(/```json\n(.*?)```/gs)].map(([, json = '']) => json);
  expect(blocks).toHaveLength(4);
  for (const json of blocks) expect(register(JSON.parse(json)).status).toBe('active');
});

describe('a changed registration', () => {
  test('keeps what was not sent', () => {
    const before = register({ ...MINIMAL, name: 'Acme', claims: { tenant: 'tid' } });
    expect(patch(before, {})).toEqual(before);
    expect(patch(before, { status: 'disabled' })).toEqual({ ...before, status: 'disabled' });
  });

  test('loses what null is sent for, and defaults come back', () => {
    const before = register({
      ...MINIMAL,
      name: 'Acme',
      claims: { tenant: 'tid' },
      scopes: [],
      algorithms: ['ES256'],
    });
    expect(patch(before, { name: null, claims: null, scopes: null, algorithms: null })).toEqual(
      register(MINIMAL),
    );
  });

  test('has new claim names in place of all old ones', () => {
    const before = register({ ...MINIMAL, claims: { tenant: 'tid', user: 'oid' } });
    expect(patch(before, { claims: { user: 'email' } }).definition.claims).toMatchObject({
      tenant: 'tenant_id',
      user: 'email',
    });
  });

  test('can move from one tenant to a list, and from one source of keys to another', () => {
    const listed = patch(register(MINIMAL), { tenant: null, tenants: ['acme', 'globex'] });
    expect(listed.definition).toMatchObject({ tenants: ['acme', 'globex'] });
    expect(listed.definition.tenant).toBeUndefined();
    const secret = patch(listed, { jwksUrl: null, secret: SECRET, algorithms: null });
    expect(secret.definition).toMatchObject({ algorithms: ['HS256'] });
    expect(secret.sealedSecret).toBeInstanceOf(Buffer);
    const back = patch(secret, { secret: null, jwksUrl: MINIMAL.jwksUrl, algorithms: null });
    expect(back).toEqual(listed);
  });

  test('keeps its secret, unless it is sent a new one', () => {
    const before = register({ ...WITHOUT_KEYS, secret: SECRET });
    expect(patch(before, { name: 'Acme' }).sealedSecret).toBe(before.sealedSecret);
    expect(patch(before, { secret: 't'.repeat(32) }).sealedSecret).not.toEqual(before.sealedSecret);
  });

  test.each<[string, object, string[]]>([
    ['two sources of keys', { keys: { keys: [rsaJwk] } }, ['/keys']],
    ['no source of keys', { jwksUrl: null }, ['/jwksUrl']],
    ['HS256 without a secret', { algorithms: ['HS256'] }, ['/algorithms']],
    ['a secret and RS256', { jwksUrl: null, secret: SECRET }, ['/algorithms']],
    ['no tenant', { tenant: null }, ['/tenant']],
    ['a tenant beside a list', { tenants: ['globex'] }, ['/tenant']],
    ['no audience', { audiences: null }, ['/audiences']],
    ['no issuer', { iss: null }, ['/iss']],
    ['a key that fits no algorithm', { jwksUrl: null, keys: { keys: [ecJwk] } }, ['/keys/keys/0']],
  ])('is refused if it would have %s', (_, change, pointers) => {
    expect(thrownBy(() => patch(register(MINIMAL), change))).toEqual(refusal(...pointers));
  });

  test('is refused under the name of the issuer of the settings', () => {
    expect(thrownBy(() => patch(register(MINIMAL), { iss: 'tidings' }))).toMatchObject({
      code: 'issuer_exists',
    });
  });

  test('revokes what was issued before a moment that has passed, and never one to come', () => {
    const revoked = patch(register(MINIMAL), { revokedBefore: '2026-01-01T01:00:00+01:00' });
    expect(revoked.revokedBefore).toEqual(new Date('2026-01-01T00:00:00Z'));
    expect(patch(revoked, {}).revokedBefore).toEqual(revoked.revokedBefore);
    expect(patch(revoked, { revokedBefore: null }).revokedBefore).toBeNull();
    const soon = new Date(Date.now() + 60_000).toISOString();
    expect(thrownBy(() => patch(register(MINIMAL), { revokedBefore: soon }))).toEqual(
      refusal('/revokedBefore'),
    );
  });
});
