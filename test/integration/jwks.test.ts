import { createPublicKey, generateKeyPairSync, sign as signBytes } from 'node:crypto';
import type { RequestListener } from 'node:http';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import {
  GivenKeys,
  keptKeySetSchema,
  KEY_SET_TIMING,
  RemoteKeys,
  SharedSecret,
  type VerificationKeys,
  within,
} from '../../src/auth/keys.ts';
import { eventually } from '../support/eventually.ts';
import { startGuarded, type GuardedApp } from '../support/guarded-app.ts';
import { issue, issuerKey, startKeyServer, type IssuerKey, type KeyServer } from '../support/key-server.ts';
import { sign } from '../support/tokens.ts';

let rsa: IssuerKey;
let rsaOther: IssuerKey;
let elliptic: IssuerKey;
let pss: IssuerKey;
let edwards: IssuerKey;
let server: KeyServer;

beforeAll(async () => {
  [rsa, rsaOther, elliptic, pss, edwards] = await Promise.all([
    issuerKey('RS256', 'rsa'),
    issuerKey('RS256', 'rsa-other'),
    issuerKey('ES256', 'elliptic'),
    issuerKey('PS256', 'pss'),
    issuerKey('EdDSA', 'edwards'),
  ]);
});
beforeEach(async () => {
  server = await startKeyServer([rsa.jwk, elliptic.jwk, pss.jwk, edwards.jwk]);
});
afterEach(async () => {
  await server.close();
});

const silent: RequestListener = () => undefined;
const answering =
  (status: number, body = ''): RequestListener =>
  (_, response) =>
    response.writeHead(status).end(body);

/** Whoever takes keys from an answer that is none has them here. */
const sendingElsewhere: RequestListener = (_, response) =>
  response.writeHead(302, { location: '/elsewhere' }).end(JSON.stringify({ keys: [rsa.jwk] }));

describe('an application with JWKS_URL', () => {
  let service: GuardedApp;
  beforeEach(async () => {
    service = await startGuarded({ JWKS_URL: server.url, JWKS_ALGORITHMS: 'RS256,ES256,PS256,EdDSA' });
  });
  afterEach(async () => {
    await service.close();
  });

  async function call(token: string, { url } = service) {
    const response = await fetch(`${url}/stream`, { headers: { authorization: `Bearer ${token}` } });
    const body: Record<string, unknown> = JSON.parse(await response.text());
    return {
      status: response.status,
      code: body['code'],
      detail: body['detail'],
      headers: response.headers,
      body,
    };
  }

  test('accepts the keys of its issuer, and asks for them once', async () => {
    for (const key of [rsa, elliptic, pss, edwards]) {
      const { status, body } = await call(await issue(key));
      expect({ status, body }).toMatchObject({ status: 200, body: { tenant: 'acme', subject: 'alice' } });
    }
    expect(server.asked).toEqual(['/keys']);
  });

  test('asks nobody before the first token, and nobody for a token whose algorithm is not accepted', async () => {
    const narrow = await startGuarded({ JWKS_URL: server.url });
    try {
      expect(server.asked).toEqual([]);
      expect(await call(await issue(elliptic), narrow)).toMatchObject({ status: 401, code: 'token_invalid' });
      expect(server.asked).toEqual([]);
      expect(await call(await issue(rsa), narrow)).toMatchObject({ status: 200 });
    } finally {
      await narrow.close();
    }
  });

  test('is not led to take a public key for a shared secret', async () => {
    const publicKey = createPublicKey({ key: { ...rsa.jwk }, format: 'jwk' });
    const pems = (['spki', 'pkcs1'] as const).map((type) =>
      publicKey.export({ type, format: 'pem' }).toString(),
    );
    const payload = JSON.parse(Buffer.from((await issue(rsa)).split('.')[1] ?? '', 'base64url').toString());
    for (const secret of [
      ...pems,
      ...pems.map((pem) => pem.trim()),
      JSON.stringify(rsa.jwk),
      rsa.jwk.n ?? '',
    ]) {
      const answer = await call(sign(payload, { alg: 'HS256', kid: 'rsa' }, secret));
      expect(answer).toMatchObject({
        status: 401,
        code: 'token_invalid',
        detail: expect.stringContaining('`alg`'),
      });
    }
    const unsigned = sign(payload, { alg: 'none', kid: 'rsa' }, '');
    expect(await call(unsigned)).toMatchObject({ status: 401, detail: expect.stringContaining('`alg`') });
  });

  test.each<[string, () => Promise<string>, string]>([
    ['of a key that the issuer does not have', () => issue(rsaOther), '`kid`'],
    ['that claims the name of another key', () => issue(rsaOther, 'rsa'), 'signature'],
    ['that claims a key of another kind', () => issue(elliptic, 'rsa'), '`kid`'],
    ['that takes the key for another algorithm', () => issue(pss, 'rsa'), '`kid`'],
  ])('refuses a token %s', async (_, make, check) => {
    expect(await call(await make())).toMatchObject({
      status: 401,
      code: 'token_invalid',
      detail: expect.stringContaining(check),
    });
  });

  test('needs no `kid` where only one key fits, and needs it where several do', async () => {
    const token = await issue(rsa, null);
    expect(await call(token)).toMatchObject({ status: 200 });
    server.keys = [rsa.jwk, rsaOther.jwk];
    const second = await startGuarded({ JWKS_URL: server.url });
    try {
      expect(await call(token, second)).toMatchObject({
        status: 401,
        detail: expect.stringContaining('several keys'),
      });
    } finally {
      await second.close();
    }
  });

  test('does not take a key that is too short, though its issuer publishes it', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
    server.keys = [{ ...publicKey.export({ format: 'jwk' }), kty: 'RSA', kid: 'weak' }];
    const [, payload = ''] = (await issue(rsa)).split('.');
    const header = Buffer.from(JSON.stringify({ alg: 'RS256', kid: 'weak' })).toString('base64url');
    const signature = signBytes('sha256', Buffer.from(`${header}.${payload}`), privateKey).toString(
      'base64url',
    );
    expect(await call(`${header}.${payload}.${signature}`)).toMatchObject({
      status: 401,
      code: 'token_invalid',
    });
  });

  test('does not take a key that is there to encrypt', async () => {
    server.keys = [{ ...rsa.jwk, use: 'enc' }];
    expect(await call(await issue(rsa))).toMatchObject({ status: 401 });
  });

  test.each<[string, RequestListener]>([
    ['is broken', answering(500)],
    ['knows no such page', answering(404)],
    ['sends elsewhere', sendingElsewhere],
    ['answers with something else', answering(200, '<html>')],
    ['answers with JSON of another kind', answering(200, '{"error":"later"}')],
    ['answers without end', answering(200, JSON.stringify({ keys: [], padding: 'x'.repeat(300 * 1024) }))],
    ['hangs up', (request) => request.socket.destroy()],
    ['publishes a key that is none', answering(200, '{"keys":[{"kty":"RSA","kid":"rsa","alg":"RS256"}]}')],
  ])('says that it passes, and not that the token is wrong, when the key server %s', async (_, fault) => {
    server.fault = fault;
    const answer = await call(await issue(rsa));
    expect(answer).toMatchObject({ status: 503, code: 'keys_unavailable' });
    expect(answer.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
    expect(answer.headers.get('www-authenticate')).toBeNull();
    expect(server.asked).not.toContain('/elsewhere');
  });

  describe('whose issuer exchanges its key', () => {
    const usual = { ...KEY_SET_TIMING };
    let app: GuardedApp | undefined;
    afterEach(async () => {
      Object.assign(KEY_SET_TIMING, usual);
      await app?.close();
      app = undefined;
    });

    /** Calls of an application that looks as often as this. */
    async function looking(timing: Partial<typeof KEY_SET_TIMING>) {
      Object.assign(KEY_SET_TIMING, timing);
      const started = await startGuarded({ JWKS_URL: server.url });
      app = started;
      return (token: string) => call(token, started);
    }

    test.each<[string, string | undefined]>([
      ['under the same name', 'k'],
      ['without a name', undefined],
    ])('%s, takes the new one at its first token and the old one no more', async (_, kid) => {
      const ask = await looking({ cooldown: 0 });
      const published = ({ jwk: { kid: __, ...jwk } }: IssuerKey) =>
        kid === undefined ? jwk : { ...jwk, kid };
      server.keys = [published(rsa)];
      const old = await issue(rsa, kid ?? null);
      for (let i = 0; i < 3; i += 1) expect(await ask(old)).toMatchObject({ status: 200 });
      server.keys = [published(rsaOther)];
      expect(await ask(old)).toMatchObject({ status: 200 });
      expect(await ask(await issue(rsaOther, kid ?? null))).toMatchObject({ status: 200 });
      expect(await ask(old)).toMatchObject({ status: 401, detail: expect.stringContaining('signature') });
    });

    test('leaves the key server alone, however many signatures are made up', async () => {
      const ask = await looking({ cooldown: 600_000 });
      const forged = await issue(rsaOther, 'rsa');
      const answers = await Promise.all(Array.from({ length: 30 }, () => ask(forged)));
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([401]));
      expect(server.asked).toEqual(['/keys']);
    });

    test('asks once for a crowd of made-up signatures, and refuses them also when nobody answers', async () => {
      const ask = await looking({ cooldown: 0, rest: 600_000 });
      const [good, forged] = [await issue(rsa), await issue(rsaOther, 'rsa')];
      await ask(good);
      let answer: (() => void) | undefined;
      const held = new Promise<void>((resolve) => (answer = resolve));
      server.fault = (__, response) => void held.then(() => response.writeHead(500).end());
      const refused = Promise.all(Array.from({ length: 30 }, () => ask(forged)));
      await eventually(() => expect(server.asked).toHaveLength(2));
      // Whoever has a good token waits for none of this.
      expect(await ask(good)).toMatchObject({ status: 200 });
      answer?.();
      expect(new Set((await refused).map(({ status }) => status))).toEqual(new Set([401]));
      expect(server.asked).toHaveLength(2);
      expect(await ask(good)).toMatchObject({ status: 200 });
    });

    test('finds the one that is left of several without a name', async () => {
      const ask = await looking({ cooldown: 0 });
      const nameless = ({ jwk: { kid: __, ...jwk } }: IssuerKey) => jwk;
      server.keys = [nameless(rsa), nameless(rsaOther)];
      const token = await issue(rsaOther, null);
      expect(await ask(token)).toMatchObject({
        status: 401,
        detail: expect.stringContaining('several keys'),
      });
      server.keys = [nameless(rsaOther)];
      expect(await ask(token)).toMatchObject({ status: 200 });
    });
  });

  test('works again soon after the key server does', async () => {
    server.fault = answering(500);
    const token = await issue(rsa);
    expect(await call(token)).toMatchObject({ status: 503 });
    server.fault = undefined;
    await eventually(async () => expect(await call(token)).toMatchObject({ status: 200 }));
  });
});

describe('the keys of an issuer', () => {
  const keysOf = (timing: Partial<typeof KEY_SET_TIMING> = {}, warn?: (message: string) => void) =>
    new RemoteKeys(server.url, warn, { ...KEY_SET_TIMING, ...timing });
  const header = ({ alg, kid }: IssuerKey) => ({ alg, kid });

  test('are asked for once by a crowd', async () => {
    const keys = keysOf();
    await Promise.all(Array.from({ length: 50 }, () => keys.keyFor(header(rsa))));
    expect(server.asked).toHaveLength(1);
    expect(await keys.keyFor(header(rsa))).toBe(await keys.keyFor(header(rsa)));
  });

  test('are fetched anew for a key that was added', async () => {
    const keys = keysOf({ cooldown: 0 });
    await keys.keyFor(header(rsa));
    server.keys = [rsa.jwk, rsaOther.jwk];
    expect((await keys.keyFor(header(rsaOther))).type).toBe('public');
    expect(server.asked).toHaveLength(2);
  });

  test('are fetched anew once for a crowd with a new key', async () => {
    const keys = keysOf({ cooldown: 0 });
    await keys.keyFor(header(rsa));
    server.keys = [rsa.jwk, rsaOther.jwk];
    await Promise.all(Array.from({ length: 50 }, () => keys.keyFor(header(rsaOther))));
    expect(server.asked).toHaveLength(2);
  });

  test('are not fetched anew each time that someone makes up a name', async () => {
    const keys = keysOf();
    await keys.keyFor(header(rsa));
    for (const kid of ['a', 'b', 'c', '../keys', server.url, "' or 1=1 --", '__proto__']) {
      await expect(keys.keyFor({ alg: 'RS256', kid })).rejects.toMatchObject({ name: 'NoSuchKey' });
    }
    expect(server.asked).toEqual(['/keys']);
  });

  test('lose a key that was withdrawn at the next refresh, for which nobody waits', async () => {
    const keys = keysOf({ refreshAfter: 0 });
    await keys.keyFor(header(rsa));
    server.keys = [elliptic.jwk];
    await keys.keyFor(header(rsa));
    await eventually(() => expect(keys.keyFor(header(rsa))).rejects.toMatchObject({ name: 'NoSuchKey' }));
  });

  test('serve on while the key server is away, and the operator hears of it', async () => {
    const warnings: string[] = [];
    const keys = keysOf({ refreshAfter: 0, rest: 0 }, (message) => warnings.push(message));
    await keys.keyFor(header(rsa));
    server.fault = answering(500);
    expect((await keys.keyFor(header(rsa))).type).toBe('public');
    await eventually(() => expect(warnings.join()).toContain('answered 500'));
    expect((await keys.keyFor(header(rsa))).type).toBe('public');
  });

  test.each<[string, RequestListener]>([
    ['redirects', sendingElsewhere],
    ['answers without end', answering(200, JSON.stringify({ keys: [], padding: 'x'.repeat(300 * 1024) }))],
    ['answers with something else', answering(200, '{"error":"later"}')],
  ])('serve on when the key server suddenly %s', async (_, fault) => {
    const warnings: string[] = [];
    const keys = keysOf({ refreshAfter: 0, rest: 0 }, (message) => warnings.push(message));
    await keys.keyFor(header(rsa));
    server.fault = fault;
    await keys.keyFor(header(rsa));
    await eventually(() => expect(warnings).not.toEqual([]));
    expect((await keys.keyFor(header(rsa))).type).toBe('public');
    expect(server.asked).not.toContain('/elsewhere');
  });

  test('do not serve for ever', async () => {
    const keys = keysOf({ maxAge: 0 });
    await keys.keyFor(header(rsa));
    server.fault = answering(500);
    await expect(keys.keyFor(header(rsa))).rejects.toMatchObject({ name: 'KeysUnavailable' });
  });

  test.each<[string, RequestListener]>([
    ['fails', answering(500)],
    ['answers with something else', answering(200, '{"error":"later"}')],
  ])('leave a key server that %s alone for a while', async (_, fault) => {
    server.fault = fault;
    const keys = keysOf({ rest: 60_000 });
    for (let i = 0; i < 3; i++) {
      await expect(keys.keyFor(header(rsa))).rejects.toMatchObject({ name: 'KeysUnavailable' });
    }
    expect(server.asked).toHaveLength(1);
  });

  test.each<[string, RequestListener]>([
    ['no word', silent],
    ['half an answer', (_, response) => response.writeHead(200).write('{"keys":[')],
  ])('are not waited for longer than agreed when %s comes', async (_, fault) => {
    server.fault = fault;
    await expect(keysOf({ timeout: 100 }).keyFor(header(rsa))).rejects.toMatchObject({
      name: 'KeysUnavailable',
    });
  });

  test('are unavailable when nobody listens', async () => {
    await server.close();
    await expect(keysOf().keyFor(header(rsa))).rejects.toMatchObject({ name: 'KeysUnavailable' });
  });

  test('are found among any number of keys of kinds that are of no use', async () => {
    const useless = Array.from({ length: 200 }, (_, i) => ({ kty: 'oct', k: 'AAAA', kid: `o${i}` }));
    const others = [
      { kty: 'AKP', kid: 'rsa' },
      { kty: 'OKP', crv: 'X25519', x: edwards.jwk.x ?? '', kid: 'rsa' },
    ];
    server.keys = [...useless, ...others, rsa.jwk];
    expect((await keysOf().keyFor(header(rsa))).asymmetricKeyType).toBe('rsa');
  });

  test.each<[string, string]>([
    ['null', 'null'],
    ['text', '"rsa"'],
    ['a list', '[]'],
    ['an object without a kind', '{"kid":"rsa"}'],
    ['a kind that is a number', '{"kty":1,"kid":"rsa"}'],
    ['an algorithm that is a number', '{"kty":"RSA","alg":1,"kid":"rsa"}'],
  ])('are not spoiled by %s among them', async (_, junk) => {
    server.fault = answering(200, `{"keys":[${junk},${JSON.stringify(rsa.jwk)}]}`);
    expect((await keysOf().keyFor(header(rsa))).type).toBe('public');
  });

  test('are refused when they are more than any issuer has', async () => {
    server.keys = Array.from({ length: 101 }, (_, i) => ({ ...edwards.jwk, kid: `k${i}` }));
    await expect(keysOf().keyFor({ alg: 'EdDSA', kid: 'k0' })).rejects.toMatchObject({
      name: 'KeysUnavailable',
    });
    server.keys = server.keys.slice(1);
    expect((await keysOf().keyFor({ alg: 'EdDSA', kid: 'k1' })).type).toBe('public');
  });

  test('that carry one name are told apart by their kind, and refused when that does not tell them apart', async () => {
    server.keys = [
      { ...rsa.jwk, kid: 'k' },
      { ...elliptic.jwk, kid: 'k' },
    ];
    const keys = keysOf({ cooldown: 0 });
    expect((await keys.keyFor({ alg: 'RS256', kid: 'k' })).asymmetricKeyType).toBe('rsa');
    expect((await keys.keyFor({ alg: 'ES256', kid: 'k' })).asymmetricKeyType).toBe('ec');
    server.keys = [
      { ...rsa.jwk, kid: 'k' },
      { ...rsaOther.jwk, kid: 'k' },
    ];
    await expect(keysOf().keyFor({ alg: 'RS256', kid: 'k' })).rejects.toMatchObject({
      name: 'NoSuchKey',
      message: expect.stringContaining('cannot be told'),
    });
  });

  test('are never private ones, should the issuer publish one', async () => {
    server.keys = [{ ...edwards.jwk, d: edwards.jwk.x ?? '' }];
    await expect(keysOf().keyFor(header(edwards))).rejects.toMatchObject({ name: 'KeysUnavailable' });
  });
});

describe.each<[string, (keys: IssuerKey['jwk'][]) => VerificationKeys]>([
  [
    'fetched',
    (keys) => {
      server.keys = keys;
      return new RemoteKeys(server.url);
    },
  ],
  ['registered', (keys) => new GivenKeys(keptKeySetSchema.parse({ keys }))],
])('%s keys', (_, having) => {
  test.each(['EdDSA', 'Ed25519'])('of Ed25519 serve EdDSA, published as %s', async (alg) => {
    const keys = having([{ ...edwards.jwk, alg }]);
    expect((await keys.keyFor({ alg: 'EdDSA', kid: 'edwards' })).asymmetricKeyType).toBe('ed25519');
  });

  test.each(['HS256', 'none', 'toString', 'RSA-OAEP'])('are no keys for %s', async (alg) => {
    const keys = within(['RS256'], having([rsa.jwk]));
    await expect(keys.keyFor({ alg, kid: 'rsa' })).rejects.toMatchObject({ name: 'NoSuchKey' });
    expect(server.asked).toEqual([]);
  });

  test('are found by name, and without one if only one fits', async () => {
    const keys = having([rsa.jwk, elliptic.jwk]);
    expect((await keys.keyFor({ alg: 'RS256', kid: undefined })).asymmetricKeyType).toBe('rsa');
    await expect(keys.keyFor({ alg: 'RS256', kid: 'elliptic' })).rejects.toMatchObject({ name: 'NoSuchKey' });
    await expect(keys.keyFor({ alg: 'ES384', kid: 'elliptic' })).rejects.toMatchObject({ name: 'NoSuchKey' });
  });
});

test('a secret is a key for HS256 alone', async () => {
  const keys = within(['HS256'], new SharedSecret('s'.repeat(32)));
  expect((await keys.keyFor({ alg: 'HS256', kid: undefined })).export().toString()).toBe('s'.repeat(32));
  await expect(keys.keyFor({ alg: 'RS256', kid: undefined })).rejects.toMatchObject({ name: 'NoSuchKey' });
});
