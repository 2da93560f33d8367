import crypto, { createHash, generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createRawServer } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { KEY_SET_TIMING } from '../../../src/auth/keys.ts';
import { publish } from '../../support/api.ts';
import { eventually } from '../../support/eventually.ts';
import { startKeyServer, type KeyServer } from '../../support/key-server.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { ask, expectNothingOf, expectRefused, traces } from './refused.ts';
import {
  claims,
  es256,
  GOOD,
  hs256,
  jwkOf,
  jws,
  KEYS,
  KID,
  rs256,
  serviceClaims,
  setStage,
  type Signer,
  type Stage,
} from './stage.ts';

/* An issuer whose key server is in the hands of an attacker, or broken: its own tokens suffer, and nothing else. */

let stage: Stage;
/** Where a key server would like to send this service. */
let elsewhere: KeyServer;
const servers: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  stage = await setStage();
  elsewhere = await startKeyServer([]);
});
afterAll(async () => {
  await Promise.all([...servers, elsewhere].map((server) => server.close()));
  await stage.close();
});

const rsaJwk = { ...jwkOf(KEYS.mallory.publicKey), kty: 'RSA', kid: KID };
const signed = rs256(KEYS.mallory.privateKey);

/** A new issuer of the tenant `mallory-corp` with this key server. */
async function issuerWith(jwksUrl: string, algorithms: readonly string[] = ['RS256']): Promise<string> {
  const iss = `https://${randomUUID()}.example/`;
  await stage.register({ iss, jwksUrl, algorithms, tenant: 'mallory-corp' });
  return iss;
}

async function serving(listener: RequestListener | undefined, keys: object[] = [rsaJwk]): Promise<KeyServer> {
  const server = await startKeyServer(keys.map((key) => ({ kty: 'RSA', ...key })));
  server.fault = listener;
  servers.push(server);
  return server;
}

const tokenOf = (iss: string, change: object = {}, signer: Signer = signed, header: object = {}) =>
  jws({ alg: 'RS256', kid: KID, ...header }, serviceClaims(iss, change), signer);

/** The token can be checked by nobody now: requests are told when to come back, a stream as events (contract: what passes is 200). */
async function expectUnavailable(iss: string): Promise<void> {
  const before = await traces(stage.database);
  const mark = stage.log.length;
  const token = tokenOf(iss);
  const answer = await ask(
    stage,
    'POST',
    '/v1/notifications',
    { authorization: `Bearer ${token}` },
    JSON.stringify({ to: { everyone: true }, type: 't', data: 1 }),
  );
  expect(answer).toMatchObject({ status: 503, body: { code: 'keys_unavailable' } });
  expect(answer.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
  const stream = await StreamClient.open(stage.url, jws({ alg: 'RS256', kid: KID }, claims(iss), signed));
  await stream.closed;
  expect(stream.events.map(({ event }) => event)).toEqual(['bye']);
  expect(stream.named('bye')).toMatchObject([{ reason: 'unavailable' }]);
  expect(await traces(stage.database)).toEqual(before);
  expectNothingOf(token, [answer.text, stream.raw, ...stage.log.slice(mark)]);
  // Nobody else noticed.
  await publish(stage.url, GOOD['globex']?.() ?? '', { to: { user: 'alice' }, type: 't', data: 1 });
}

const answering =
  (status: number, body: string | Buffer = '', headers: Record<string, string> = {}): RequestListener =>
  (_, response) =>
    response.writeHead(status, headers).end(body);

const set = (...keys: object[]) => JSON.stringify({ keys });

test('the key server of an issuer that means no harm is asked, and its token taken', async () => {
  const server = await serving(undefined);
  await publish(stage.url, tokenOf(await issuerWith(server.url)), { to: { user: 'a' }, type: 't', data: 1 });
  expect(server.asked).toEqual(['/keys']);
});

describe('a key server that', () => {
  const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024));
  test.each<[string, RequestListener]>([
    ['says nothing', () => undefined],
    ['says nothing after its head', (_, response) => response.writeHead(200).write('{"keys":[')],
    [
      'says one byte at a time',
      (_, response) => {
        const timer = setInterval(() => response.write(' '), 50);
        response.once('close', () => clearInterval(timer));
      },
    ],
    ['sends 300 KiB', answering(200, `${' '.repeat(300 * 1024)}${set(rsaJwk)}`)],
    ['sends a bomb of gzip', answering(200, bomb, { 'content-encoding': 'gzip' })],
    ['sends a bomb in a bomb', answering(200, gzipSync(bomb), { 'content-encoding': 'gzip, gzip' })],
    ['says gzip and sends none', answering(200, set(rsaJwk), { 'content-encoding': 'gzip' })],
    ['sends JSON that ends too early', answering(200, set(rsaJwk).slice(0, -2))],
    ['sends JSON and more', answering(200, `${set(rsaJwk)}]`)],
    ['sends a page', answering(200, '<!doctype html><title>mallory</title>')],
    ['sends nothing', answering(200)],
    ['sends no content', answering(204)],
    ['sends null', answering(200, 'null')],
    ['sends a list', answering(200, JSON.stringify([rsaJwk]))],
    ['sends keys in an object', answering(200, JSON.stringify({ keys: { [KID]: rsaJwk } }))],
    ['sends keys in a prototype', answering(200, `{"__proto__":${set(rsaJwk)}}`)],
    ['sends brackets', answering(200, '['.repeat(200_000))],
    [
      'sends 101 keys',
      answering(200, set(...Array.from({ length: 101 }, (_, i) => ({ ...rsaJwk, kid: `k${i}` })))),
    ],
    [
      'sends a key that is none',
      answering(
        200,
        set({ kty: 'RSA', kid: KID, n: 'AQAB', e: 'AQAB', alg: 'ES256K' }, { kty: 'RSA', kid: KID }),
      ),
    ],
    [
      'sends less than it says',
      (_, response) => {
        response.writeHead(200, { 'content-length': '9999' });
        response.write(set(rsaJwk));
        response.socket?.end();
      },
    ],
    ['sends a head that does not end', answering(200, set(rsaJwk), { 'x-padding': 'x'.repeat(30_000) })],
    ['is forbidden', answering(403, set(rsaJwk))],
    ['wants to be left alone', answering(429, '', { 'retry-after': '1000000' })],
    ['hangs up', (request) => request.socket.destroy()],
  ])('%s makes its tokens wait, and nothing else', async (_, fault) => {
    const server = await serving(fault);
    await expectUnavailable(await issuerWith(server.url));
    expect(server.asked.length).toBeLessThanOrEqual(3);
  });

  test('sends without end is cut off', async () => {
    let written = 0;
    const over = Promise.withResolvers<void>();
    const server = await serving((_, response) => {
      response.writeHead(200);
      const chunk = ' '.repeat(64 * 1024);
      const more = () => {
        let free = true;
        while (free && !response.destroyed) {
          written += chunk.length;
          free = response.write(chunk);
        }
        response.once('drain', more);
      };
      response.once('close', over.resolve);
      more();
    });
    await expectUnavailable(await issuerWith(server.url));
    await over.promise;
    // What the sockets of both sides hold, beyond what was read.
    expect(written).toBeLessThan(16 * 1024 * 1024);
  });

  test('does not speak HTTP makes its tokens wait', async () => {
    const server = createRawServer((socket) => {
      socket.on('error', () => undefined).write('220 mallory ESMTP\r\n', () => socket.destroy());
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : undefined;
    await expectUnavailable(await issuerWith(`http://127.0.0.1:${port}/keys`));
    await new Promise((resolve) => server.close(resolve));
  });

  const targets: [name: string, location: () => string][] = [
    ['another server', () => elsewhere.url],
    ['what clouds tell of a machine', () => `${new URL(elsewhere.url).origin}/latest/meta-data/iam`],
    ['a file', () => 'file:///etc/passwd'],
    ['what it carries itself', () => `data:application/json,${encodeURIComponent(set(rsaJwk))}`],
    ['itself', () => '/keys'],
  ];
  const redirects = [301, 302, 303, 307, 308].flatMap((status) =>
    targets.map(([name, location]): [number, string, () => string] => [status, name, location]),
  );
  test.each(redirects)('redirects by %d to %s is not followed', async (status, _, location) => {
    elsewhere.keys = [rsaJwk];
    const server = await serving(answering(status, set(rsaJwk), { location: location() }));
    await expectUnavailable(await issuerWith(server.url));
    expect(elsewhere.asked).toEqual([]);
    expect(server.asked.length).toBeLessThanOrEqual(3);
  });

  test('is slow is waited for by its own callers only', async () => {
    const usual = { ...KEY_SET_TIMING };
    // Whoever else waited for it would wait for longer than the test.
    Object.assign(KEY_SET_TIMING, { timeout: 600_000, rest: 600_000 });
    try {
      const hangUp = Promise.withResolvers<void>();
      const server = await serving((request) => void hangUp.promise.then(() => request.socket.destroy()));
      const iss = await issuerWith(server.url);
      const waiting = Array.from({ length: 50 }, (_, i) =>
        fetch(`${stage.url}/v1/notifications`, {
          headers: { authorization: `Bearer ${tokenOf(iss, { jti: `slow-${i}` })}` },
        }),
      );
      await eventually(() => expect(server.asked).toHaveLength(1));
      for (const make of Object.values(GOOD))
        await publish(stage.url, make(), { to: { user: 'alice' }, type: 't', data: 1 });
      hangUp.resolve();
      const statuses = (await Promise.all(waiting)).map(({ status }) => status);
      expect(new Set(statuses)).toEqual(new Set([503]));
      expect(server.asked).toHaveLength(1);
    } finally {
      Object.assign(KEY_SET_TIMING, usual);
    }
  });
});

describe('a key set', () => {
  const weak = generateKeyPairSync('rsa', { modulusLength: 1_024 });
  const other = generateKeyPairSync('rsa', { modulusLength: 2_048 });
  const ellipticJwk = { ...jwkOf(KEYS.malloryElliptic.publicKey), kid: KID };
  const shared = 'a secret that is published by mistake';
  const secretJwk = { kty: 'oct', kid: KID, alg: 'HS256', k: Buffer.from(shared).toString('base64url') };

  interface Row {
    readonly name: string;
    readonly keys: object[];
    readonly header?: object;
    readonly signer?: Signer;
    readonly detail: string;
  }
  const rows: Row[] = [
    {
      name: 'with a secret, which a token is signed with',
      keys: [secretJwk],
      header: { alg: 'HS256' },
      signer: hs256(shared),
      detail: '`alg`',
    },
    { name: 'with a secret in place of the key', keys: [secretJwk], signer: hs256(shared), detail: '`kid`' },
    {
      name: 'with a secret for RS256',
      keys: [{ ...secretJwk, alg: 'RS256' }],
      signer: hs256(shared),
      detail: '`kid`',
    },
    {
      name: 'with a secret beside the key',
      keys: [secretJwk, rsaJwk],
      header: { alg: 'HS256' },
      signer: hs256(shared),
      detail: '`alg`',
    },
    {
      name: 'with an elliptic key in place of the key',
      keys: [ellipticJwk],
      signer: es256(KEYS.malloryElliptic.privateKey),
      detail: '`kid`',
    },
    {
      name: 'with an elliptic key, which a token is signed with',
      keys: [ellipticJwk],
      header: { alg: 'ES256' },
      signer: es256(KEYS.malloryElliptic.privateKey),
      detail: '`alg`',
    },
    { name: 'with a key to encrypt', keys: [{ ...rsaJwk, use: 'enc' }], detail: '`kid`' },
    { name: 'with a key for another purpose', keys: [{ ...rsaJwk, key_ops: ['wrapKey'] }], detail: '`kid`' },
    { name: 'with a key for another algorithm', keys: [{ ...rsaJwk, alg: 'RS512' }], detail: '`kid`' },
    {
      name: 'with a key to encrypt, by its algorithm',
      keys: [{ ...rsaJwk, alg: 'RSA-OAEP-256' }],
      detail: '`kid`',
    },
    { name: 'with the key under another name', keys: [{ ...rsaJwk, kid: 'k2' }], detail: '`kid`' },
    {
      name: 'with two keys of one name',
      keys: [rsaJwk, { ...jwkOf(other.publicKey), kty: 'RSA', kid: KID }],
      detail: 'cannot be told',
    },
    { name: 'with the same key twice', keys: [rsaJwk, rsaJwk], detail: 'cannot be told' },
    {
      name: 'with two keys without names',
      keys: [
        { ...rsaJwk, kid: undefined },
        { ...jwkOf(other.publicKey), kty: 'RSA' },
      ],
      header: { kid: undefined },
      detail: 'several keys',
    },
    { name: 'without keys', keys: [], detail: '`kid`' },
    {
      name: 'with a key that is too short',
      keys: [{ ...jwkOf(weak.publicKey), kty: 'RSA', kid: KID }],
      signer: rs256(weak.privateKey),
      detail: 'too short',
    },
    {
      name: 'with a certificate and no key',
      keys: [{ kty: 'RSA', kid: 'k2', x5c: ['bWFsbG9yeQ=='], x5u: 'http://127.0.0.1:1/mallory' }],
      detail: '`kid`',
    },
  ];
  test.each(rows)('$name lets nobody in', async ({ keys, header = {}, signer = signed, detail }) => {
    const server = await serving(answering(200, set(...keys)));
    const began = performance.now();
    await expectRefused(stage, tokenOf(await issuerWith(server.url), {}, signer, header), { detail });
    const cooldowns = Math.floor((performance.now() - began) / KEY_SET_TIMING.cooldown);
    expect(server.asked.length).toBeLessThanOrEqual(2 + cooldowns);
  });

  test('with private keys is no key set of this service: it is refused whole', async () => {
    const privateJwk: Record<string, string> = { ...jwkOf(KEYS.mallory.privateKey), kty: 'RSA', kid: KID };
    const server = await serving(answering(200, set(privateJwk)));
    await expectUnavailable(await issuerWith(server.url));
    for (const line of stage.log) expect(line).not.toContain(privateJwk['d']);
  });

  test.each<[string, number, Buffer]>([
    ['a modulus as large as any', 16_384, Buffer.from('ffffffffffffffff', 'hex')],
    ['an exponent as large as any', 3_072, Buffer.concat([Buffer.of(0x7f), Buffer.alloc(383, 0xff)])],
    ['a modulus that is too large for anybody', 65_536, Buffer.from('010001', 'hex')],
  ])('with %s does not make a token dear', async (_, bits, exponent) => {
    const modulus = randomBytes(bits / 8);
    modulus.writeUInt8(modulus.readUInt8(0) | 0x80, 0);
    modulus.writeUInt8(modulus.readUInt8(modulus.length - 1) | 1, modulus.length - 1);
    const jwk = { kty: 'RSA', kid: KID, n: modulus.toString('base64url'), e: exponent.toString('base64url') };
    const server = await serving(answering(200, set(jwk)));
    const honest = await serving(undefined, [{ ...jwkOf(KEYS.acme.publicKey), kid: KID }]);
    const iss = await issuerWith(server.url);
    const verify = jest.spyOn(crypto, 'createVerify');
    for (let run = 0; run < 6; run += 1) {
      const signature: Signer = (input) =>
        createHash('shake256', { outputLength: 2_048 }).update(input).digest();
      const answer = await ask(stage, 'GET', '/v1/notifications', {
        authorization: `Bearer ${tokenOf(iss, { jti: randomUUID() }, signature)}`,
      });
      expect(answer).toMatchObject({ status: 401, body: { detail: expect.stringContaining('too long') } });
    }
    // That would be dear.
    expect(verify).not.toHaveBeenCalled();
    await expectRefused(stage, tokenOf(await issuerWith(honest.url)), { detail: 'signature' });
    expect(verify).toHaveBeenCalled();
    verify.mockRestore();
  });
});

describe('a provider that flaps under load', () => {
  test('is asked once a second at most, one request at a time, and nobody gets a 500', async () => {
    let [inFlight, most, asked] = [0, 0, 0];
    const down: RequestListener[] = [
      answering(500),
      (request) => request.socket.destroy(),
      answering(200, '<html>'),
      answering(302, '', { location: elsewhere.url }),
    ];
    // Long enough down for a stampede, and with other keys when it is back for the first time.
    const up: RequestListener[] = [
      answering(200, set({ ...rsaJwk, kid: 'k9' })),
      answering(500),
      answering(200, set(rsaJwk)),
    ];
    const begin = performance.now();
    const server = createServer((request, response) => {
      asked += 1;
      inFlight += 1;
      most = Math.max(most, inFlight);
      response.once('close', () => (inFlight -= 1));
      const mood = down[asked % down.length];
      const answer = performance.now() - begin < 4_000 ? mood : up.length > 1 ? up.shift() : up[0];
      setTimeout(() => answer?.(request, response), 50);
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    servers.push({
      close: () =>
        new Promise((resolve) => {
          server.close(() => resolve());
          server.closeAllConnections();
        }),
    });
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : undefined;
    const iss = await issuerWith(`http://127.0.0.1:${port}/keys`);

    const started = performance.now();
    const statuses = new Map<number, number>();
    let count = 0;
    const caller = async () => {
      while (count <= 200 || performance.now() - started < 6_000) {
        count += 1;
        const header = count % 3 === 0 ? { kid: `mallory-${count}` } : {};
        const authorization = `Bearer ${tokenOf(iss, { jti: `j${count}` }, signed, header)}`;
        const { status } = await fetch(`${stage.url}/v1/notifications?limit=1`, {
          headers: { authorization },
        });
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    };
    await Promise.all(Array.from({ length: 20 }, caller));
    const seconds = (performance.now() - started) / 1_000;
    expect([...statuses.keys()].filter((status) => ![200, 401, 503].includes(status))).toEqual([]);
    expect(asked).toBeLessThanOrEqual(Math.ceil(seconds) + 2);
    expect(most).toBe(1);
    expect(elsewhere.asked).toEqual([]);
    // It comes back: the next good answer is believed.
    up.splice(0, up.length, answering(200, set(rsaJwk)));
    const token = tokenOf(iss);
    await eventually(
      async () =>
        expect(
          (await fetch(`${stage.url}/v1/notifications`, { headers: { authorization: `Bearer ${token}` } }))
            .status,
        ).toBe(200),
      { every: 100 },
    );
  });
});
