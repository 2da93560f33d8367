import { once } from 'node:events';
import { request } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publish } from '../../support/api.ts';
import { eventually } from '../../support/eventually.ts';
import { expectRefused, traces } from './refused.ts';
import {
  ACME,
  claims,
  GOOD,
  jws,
  KEYS,
  KID,
  MARK,
  rs256,
  serviceClaims,
  setStage,
  UMBRELLA,
  es256,
  type Stage,
} from './stage.ts';

/* What a token may look like. All but the ones said to be nobody's carry a good signature: a malicious provider makes them. */

let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
});
afterAll(async () => {
  await stage.close();
});

const HEADER = { alg: 'RS256', kid: KID };
const signed = rs256(KEYS.acme.privateKey);
const nobodys = rs256(KEYS.mallory.privateKey);

/** JSON of claims, with more text before its closing bracket. */
const withText = (more: string, rest: object = serviceClaims(ACME)) =>
  `${JSON.stringify(rest).slice(0, -1)},${more}}`;

test.each(Object.entries(GOOD))('a good token of %s is taken', async (_, make) => {
  await publish(stage.url, make(), { to: { user: 'alice' }, type: 't', data: 1 });
});

describe('a token that says two things', () => {
  test.each<[string, string]>([
    ['of its subject', '"sub":"mallory-second"'],
    ['of its subject, spelled otherwise', '"\\u0073\\u0075\\u0062":"mallory-second"'],
    ['of its issuer', `"iss":"${UMBRELLA}"`],
    ['of its tenant', '"tenant_id":"globex","tenant_id":"mallory-second"'],
    ['of its audience', '"aud":["mallory-second","tidings"]'],
    ['of its end', '"exp":9999999999'],
    ['of its scopes', '"scope":"tenants:admin"'],
    ['of its topics, both lists', '"topics":["mallory-first"],"topics":["mallory-second"]'],
    ['of something inside a claim', '"realm":{"roles":["mallory-first"],"roles":["mallory-second"]}'],
    ['of something inside a list', '"list":[{"mallory-a":1,"mallory-a":2}]'],
    ['of a prototype', '"__proto__":{"mallory-a":1},"__proto__":{"mallory-b":2}'],
    ['of a name without characters', '"":1,"":2'],
    ['with space around it', '\n\t"sub" \r\n : "mallory-second"  '],
  ])('%s in its claims is refused', async (_, more) => {
    await expectRefused(stage, jws(HEADER, withText(more), signed), {
      // The issuer is read before the signature is checked, and the last one is what a parser finds.
      detail: more.includes('"iss"') ? '' : 'twice',
    });
  });

  test.each<[string, string]>([
    ['of its algorithm', `{"alg":"none","alg":"RS256","kid":"${KID}"}`],
    ['of its algorithm, the good one first', `{"alg":"RS256","alg":"none","kid":"${KID}"}`],
    ['of its key', `{"alg":"RS256","kid":"mallory-first","kid":"${KID}"}`],
    ['of its key, spelled otherwise', `{"alg":"RS256","\\u006bid":"mallory-first","kid":"${KID}"}`],
    ['of its type', `{"alg":"RS256","kid":"${KID}","typ":"logout+jwt","typ":"JWT"}`],
    ['of what has to be understood', `{"alg":"RS256","kid":"${KID}","crit":["mallory-first"],"crit":[]}`],
    ['inside a member', `{"alg":"RS256","kid":"${KID}","jwk":{"mallory-a":1,"mallory-a":2}}`],
  ])('%s in its header is refused (RFC 7515 §4)', async (_, header) => {
    await expectRefused(stage, jws(header, serviceClaims(ACME), signed), {
      // The algorithm that a parser finds is looked at anyway.
      detail: header.includes('"none",') || header.includes('crit') ? '' : 'twice',
    });
  });
});

describe('a header with `crit`', () => {
  test.each<[string, object]>([
    ['of a claim', { crit: ['exp'], exp: 9_999_999_999 }],
    ['of an extension that is there', { crit: [`${MARK}-ext`], [`${MARK}-ext`]: true }],
    ['of one that is not', { crit: [`${MARK}-ext`] }],
    ['of a payload that is not encoded (RFC 7797)', { crit: ['b64'], b64: false }],
    ['of a payload that is encoded', { crit: ['b64'], b64: true }],
    ['of nothing', { crit: [] }],
    ['that is null', { crit: null }],
    ['that is text', { crit: 'b64' }],
    ['that is an object', { crit: { mallory: true } }],
    ['that is false', { crit: false }],
  ])('%s is refused (RFC 7515 §4.1.11)', async (_, more) => {
    await expectRefused(stage, jws({ ...HEADER, ...more }, serviceClaims(ACME), signed), {
      detail: '`crit`',
    });
  });
});

describe('a token of another form', () => {
  const good = () => jws(HEADER, serviceClaims(ACME), signed);
  const part = (index: number) => good().split('.')[index] ?? '';
  test.each<[string, () => string, string]>([
    ['encrypted (RFC 7516)', () => `${part(0)}.bWFsbG9yeQ.bWFsbG9yeQ.bWFsbG9yeQ.bWFsbG9yeQ`, 'payload'],
    ['with a fourth part', () => `${good()}.bWFsbG9yeQ`, 'signature'],
    ['without its last part', () => `${part(0)}.${part(1)}`, 'signature'],
    ['with a detached payload (RFC 7515 appendix F)', () => `${part(0)}..${part(2)}`, 'payload'],
    ['without a header', () => `.${part(1)}.${part(2)}`, 'not a signed'],
    ['of dots', () => '.'.repeat(4_000), 'not a signed'],
    ['in another alphabet', () => `${part(0)}.${part(1)}.~${part(2)}`, 'signature'],
    [
      'with a payload in Latin-1',
      () => jws(HEADER, Buffer.from('{"sub":"mallory-\xe9"}', 'latin1').toString('latin1'), signed),
      '`iss`',
    ],
    ['whose payload is a list', () => jws(HEADER, [serviceClaims(ACME)], signed), 'payload'],
    [
      'whose payload is text',
      () => jws(HEADER, JSON.stringify(JSON.stringify(serviceClaims(ACME))), signed),
      'payload',
    ],
    [
      'whose payload is followed by another',
      () => jws(HEADER, `${JSON.stringify(serviceClaims(ACME))}{}`, signed),
      'payload',
    ],
    [
      'whose payload has a comment',
      () => jws(HEADER, `${JSON.stringify(serviceClaims(ACME))}//`, signed),
      'payload',
    ],
    ['whose header is a list', () => jws([HEADER], serviceClaims(ACME), signed), 'not a signed'],
    [
      'whose header is a token',
      () => `${Buffer.from(good()).toString('base64url')}.${part(1)}.${part(2)}`,
      'not a signed',
    ],
  ])('%s is refused', async (_, make, detail) => {
    await expectRefused(stage, make(), { detail });
  });
});

describe('a token whose times are not possible', () => {
  const now = Math.floor(Date.now() / 1000);
  test.each<[string, object, string]>([
    ['issued tomorrow, to outlive a revocation', { iat: now + 86_400, exp: now + 90_000 }, 'future'],
    ['good tomorrow', { nbf: now + 86_400 }, 'not valid yet'],
    ['over', { iat: now - 900, exp: now - 300 }, 'expired'],
    ['without end', { exp: undefined }, '`exp`'],
    ['whose end is text', { exp: '9999999999' }, '`exp`'],
    ['whose end lies beyond all calendars', { exp: 1e300 }, '`exp`'],
    ['whose end is no number that there is', { exp: null }, '`exp`'],
    ['for a hundred years', { exp: now + 36_500 * 86_400 }, 'issued for longer'],
    [
      'for a hundred years, without saying since when',
      { iat: undefined, exp: now + 36_500 * 86_400 },
      'issued for longer',
    ],
    ['issued long before the epoch', { iat: -1e15 }, 'issued for longer'],
  ])('%s is refused', async (_, change, detail) => {
    await expectRefused(stage, jws(HEADER, serviceClaims(ACME, change), signed), { detail });
  });

  test('whose end is infinite is refused', async () => {
    const payload = JSON.stringify(serviceClaims(ACME)).replace(/"exp":\d+/, '"exp":1e999');
    await expectRefused(stage, jws(HEADER, payload, signed), { detail: '`exp`' });
    const issued = JSON.stringify(serviceClaims(ACME)).replace(/"iat":\d+/, '"iat":-1e999');
    await expectRefused(stage, jws(HEADER, issued, signed), { detail: '`iat`' });
  });
});

describe('a huge token', () => {
  const nested = (open: string, close: string, times: number) =>
    `"x":${open.repeat(times)}0${close.repeat(times)}`;
  const many = (times: number, member: (i: number) => string) =>
    Array.from({ length: times }, (_, i) => member(i)).join();
  /** Shapes on which a careless reader spends the square of their size, or its stack. */
  const shapes: [name: string, more: string][] = [
    ['of lists in lists', nested('[', ']', 2_600)],
    ['of objects in objects', nested('{"a":', '}', 850)],
    [
      'of lists just as deep as is allowed, and broad',
      `"x":${'['.repeat(30)}${many(2_500, () => '0')}${']'.repeat(30)}`,
    ],
    ['of a thousand members', many(550, (i) => `"m${i}":0`)],
    ['of one member a thousand times', many(700, () => '"m":0')],
    ['of escapes', `"x":"${'\\u0041'.repeat(850)}"`],
    ['of backslashes', `"x":"${'\\\\'.repeat(2_500)}"`],
    ['of white space', ' '.repeat(5_200) + '"x":0'],
    ['of one number', `"x":1${'0'.repeat(5_200)}`],
    ['of one number with a fraction', `"iat":0.${'0'.repeat(5_200)}1`],
    ['of audiences', `"aud":[${many(1_300, () => '"a"')}]`],
    ['of scopes', `"scope":[${many(1_300, () => '"a"')}]`],
    ['of topics', `"topics":[${many(700, (i) => `"t${i}"`)}]`],
  ];

  /** How long a request with the token takes, in ms. */
  async function timed(token: string, statuses: readonly number[]): Promise<number> {
    const started = performance.now();
    const { status } = await fetch(`${stage.url}/v1/notifications?limit=1`, {
      headers: { authorization: `Bearer ${token}` },
    });
    const took = performance.now() - started;
    expect(statuses).toContain(status);
    return took;
  }

  test.each(shapes)('%s costs hardly more than any other, whoever made it', async (_, more) => {
    const payload = withText(more, claims(ACME));
    const umbrella = withText(more, claims(UMBRELLA));
    const usual = jws(HEADER, claims(ACME), nobodys);
    for (const token of [
      jws(HEADER, payload, signed),
      jws(HEADER, payload, nobodys),
      jws(`{"alg":"RS256","kid":"${KID}",${more}}`, claims(ACME), signed),
      jws(`{"alg":"RS256","kid":"${KID}",${more}}`, claims(ACME), nobodys),
      jws({ alg: 'ES256', kid: KID, typ: 'at+jwt' }, umbrella, es256(KEYS.umbrella.privateKey)),
    ]) {
      expect(token.length).toBeLessThan(8_192);
      // The fastest of all so far: a machine can only be too slow.
      let [fastest, usually] = [Infinity, Infinity];
      await eventually(async () => {
        fastest = Math.min(fastest, await timed(token, [401, 403]));
        usually = Math.min(usually, await timed(usual, [401]));
        expect(fastest).toBeLessThan(10 * usually);
      });
    }
  });

  test.each(shapes.slice(0, 2))('%s is refused', async (_, more) => {
    await expectRefused(stage, jws(HEADER, withText(more), signed), { detail: 'nested too deeply' });
  });

  test('of more than 8 KiB is not looked at', async () => {
    const token = jws(HEADER, serviceClaims(ACME, { padding: 'mallory '.repeat(800) }), signed);
    const before = await traces(stage.database);
    for (const [method, path] of [
      ['GET', '/v1/stream'],
      ['POST', '/v1/notifications'],
    ] as const) {
      const response = await fetch(stage.url + path, {
        method,
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        body: method === 'GET' ? null : '{}',
      });
      expect({ status: response.status, body: await response.json() }).toMatchObject({
        status: 401,
        body: { code: 'token_invalid', detail: expect.stringContaining('longer than') },
      });
    }
    expect(await traces(stage.database)).toEqual(before);
  });

  test('of more than any header may have ends the connection, and no other', async () => {
    const sent = request(`${stage.url}/v1/stream`, {
      agent: false,
      headers: { authorization: `Bearer ${'a'.repeat(200_000)}` },
    });
    sent.end();
    const outcome = await Promise.race([
      once(sent, 'response').then(([response]: { statusCode?: number }[]) => response?.statusCode),
      once(sent, 'error').then(() => 431),
    ]);
    sent.destroy();
    expect(outcome).toBe(431);
    await publish(stage.url, GOOD['acme']?.() ?? '', { to: { user: 'alice' }, type: 't', data: 1 });
  });
});
