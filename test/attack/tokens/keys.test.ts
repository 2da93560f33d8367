import { createServer, type Server } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { KEY_SET_TIMING } from '../../../src/auth/keys.ts';
import { publish } from '../../support/api.ts';
import { expectRefused } from './refused.ts';
import {
  ACME,
  GLOBEX,
  GOOD,
  INITECH,
  jwkOf,
  jws,
  KEYS,
  KID,
  es256,
  hs256,
  rs256,
  serviceClaims,
  setStage,
  type Stage,
} from './stage.ts';

/* A key never comes from a token, whatever its header says (RFC 8725 §3.10, RFC 7515 §4.1.2 to §4.1.6). */

let stage: Stage;
/** What the attacker's server was asked for. */
const asked: string[] = [];
let attacker: Server;
let attackerUrl: string;

/** By `performance.now()`. */
let began: number;

beforeAll(async () => {
  began = performance.now();
  stage = await setStage();
  attacker = createServer((request, response) => {
    asked.push(request.url ?? '');
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ keys: [malloryJwk] }));
  });
  await new Promise<void>((resolve) => attacker.listen(0, '127.0.0.1', resolve));
  const address = attacker.address();
  if (address === null || typeof address === 'string') throw new Error('The attacker has no port.');
  attackerUrl = `http://127.0.0.1:${address.port}`;
});
afterAll(async () => {
  await stage.close();
  await new Promise((resolve) => attacker.close(resolve));
});

const malloryJwk = { ...jwkOf(KEYS.mallory.publicKey), kid: KID, alg: 'RS256', use: 'sig' };
const note = { to: { user: 'alice' }, type: 't', data: 1 };

describe('beside what is refused here', () => {
  test.each(Object.entries(GOOD))('a good token of %s is taken', async (_, make) => {
    await publish(stage.url, make(), note);
  });
});

describe('a made-up `kid`', () => {
  const names: [name: string, kid: unknown][] = [
    ['a path', '../../../../../../dev/null'],
    ['a path of another system', '..\\..\\windows\\win.ini'],
    ['a file', 'file:///etc/passwd'],
    ['SQL', "k1' or '1'='1' --"],
    ['SQL that joins', "' union select 'bXkga2V5' --"],
    ['SQL that waits', "k1'; select pg_sleep(10); --"],
    ['a command', '$(sleep 10)`sleep 10`|sleep 10'],
    ['a template', '{{constructor.constructor("return 1")()}}${7*7}'],
    ['NUL', '\u0000'],
    ['the name of the key and NUL', `${KID}\u0000.mallory`],
    ['line ends', `${KID}\r\nset-cookie: mallory=1`],
    ['a prototype', '__proto__'],
    ['a constructor', 'constructor'],
    ['a method of every object', 'toString'],
    ['a method of every object that is older', 'hasOwnProperty'],
    ['a lone surrogate', '\ud800mallory'],
    ['5 KiB', 'mallory'.repeat(740)],
    ['nothing', ''],
    ['a list', [KID]],
    ['an object', { mallory: KID }],
    ['a number', 1],
    ['null', null],
  ];
  test.each(names)('that is %s leads to no key', async (_, kid) => {
    const detail = typeof kid === 'string' ? '`kid`' : 'not a signed';
    const elliptic = es256(KEYS.malloryElliptic.privateKey);
    for (const [header, iss, signer] of [
      [{ alg: 'RS256', kid }, ACME, rs256(KEYS.mallory.privateKey)],
      [{ alg: 'ES256', kid }, GLOBEX, elliptic],
    ] as const) {
      const token = jws(header, serviceClaims(iss, { tenant_id: 'globex' }), signer);
      await expectRefused(stage, token, { detail });
    }
  });

  test.each([
    ['a path to an empty file', '../../../../dev/null', ''],
    ['a path to an empty file, with NUL', '/dev/null', '\u0000'],
    ['SQL that names the secret', "' union select 'mallory-knows-this' --", 'mallory-knows-this'],
    ['the name of another key', KID, 'mallory-knows-this'],
  ])('that is %s does not choose the secret of a token', async (_, kid, secret) => {
    const token = jws({ alg: 'HS256', kid }, serviceClaims(INITECH), hs256(secret));
    await expectRefused(stage, token, { detail: 'signature' });
  });

  test('that is the address of another server leads nowhere', async () => {
    for (const kid of [
      attackerUrl,
      `${attackerUrl}/keys.json#${KID}`,
      `//${new URL(attackerUrl).host}/${KID}`,
    ]) {
      const token = jws({ alg: 'RS256', kid }, serviceClaims(ACME), rs256(KEYS.mallory.privateKey));
      await expectRefused(stage, token, { detail: '`kid`' });
    }
    expect(asked).toEqual([]);
  });

  test.each(['K1', ' k1', 'k1 ', 'k1\n', 'k\u200b1', '\uff4b1', 'k1/', 'k01'])(
    'that only resembles the right one (%j) does not find it, even under a good signature',
    async (kid) => {
      const token = jws({ alg: 'RS256', kid }, serviceClaims(ACME), rs256(KEYS.acme.privateKey));
      await expectRefused(stage, token, { detail: '`kid`' });
    },
  );
});

describe('a key that the token brings along', () => {
  const certificate = Buffer.from('a certificate of mallory').toString('base64');
  const ways: [name: string, header: () => Record<string, unknown>][] = [
    ['`jwk`', () => ({ jwk: malloryJwk })],
    ['`jwk` with a secret', () => ({ jwk: { kty: 'oct', k: 'bWFsbG9yeQ', kid: KID } })],
    ['`jku`', () => ({ jku: `${attackerUrl}/keys.json` })],
    ['`jku` that begins like the right one', () => ({ jku: `${stage.keyServer.url}@127.0.0.1/keys.json` })],
    ['`x5u`', () => ({ x5u: `${attackerUrl}/chain.pem` })],
    ['`x5c`', () => ({ x5c: [certificate] })],
    ['`x5t` and `x5t#S256`', () => ({ x5t: 'mallory-thumb', 'x5t#S256': 'mallory-thumb' })],
    [
      'all of them',
      () => ({
        jwk: malloryJwk,
        jku: `${attackerUrl}/keys.json`,
        x5u: `${attackerUrl}/chain.pem`,
        x5c: [certificate],
        jwks: { keys: [malloryJwk] },
        jwks_uri: `${attackerUrl}/keys.json`,
      }),
    ],
  ];

  test.each(ways)('in %s is not what its signature is checked with', async (_, header) => {
    const signer = rs256(KEYS.mallory.privateKey);
    const named = jws({ alg: 'RS256', kid: KID, ...header() }, serviceClaims(ACME), signer);
    await expectRefused(stage, named, { detail: 'signature' });
    const unnamed = jws({ alg: 'RS256', ...header() }, serviceClaims(ACME), signer);
    await expectRefused(stage, unnamed, { detail: 'signature' });
    expect(asked).toEqual([]);
  });

  test.each(ways)('in %s is passed over beside a good signature', async (_, header) => {
    const signer = rs256(KEYS.acme.privateKey);
    await publish(stage.url, jws({ alg: 'RS256', kid: KID, ...header() }, serviceClaims(ACME), signer), note);
    expect(asked).toEqual([]);
  });

  test('is not looked for where the issuer that a token claims would be', async () => {
    const token = jws({ alg: 'RS256', kid: KID }, serviceClaims(attackerUrl), rs256(KEYS.mallory.privateKey));
    await expectRefused(stage, token, { detail: '`iss`' });
    expect(asked).toEqual([]);
  });
});

test('the key server of the issuer was asked for its key set and for nothing else', () => {
  expect(new Set(stage.keyServer.asked)).toEqual(new Set(['/keys']));
  // At the first token, and then at most once in a cooldown for a `kid` that is not in it.
  const cooldowns = Math.floor((performance.now() - began) / KEY_SET_TIMING.cooldown);
  expect(stage.keyServer.asked.length).toBeLessThanOrEqual(2 + cooldowns);
});
