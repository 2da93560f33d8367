import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publish } from '../../support/api.ts';
import { TEST_ISSUER, TEST_SECRET } from '../../support/tokens.ts';
import { ask, expectRefused } from './refused.ts';
import {
  ACME,
  GOOD,
  hs256,
  INITECH,
  INITECH_SECRET,
  jws,
  serviceClaims,
  setStage,
  type Stage,
} from './stage.ts';

/*
 * Secrets are compared by the library that checks signatures, and tickets by their hash in an index. Time is not measured
 * here, since a machine under load has its own; what can be told is that an answer does not say how near a guess was, and
 * that nothing which can be read holds what has to be guessed.
 */

let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
});
afterAll(async () => {
  await stage.close();
});

const note = { to: { user: 'alice' }, type: 't', data: 1 };
const issuers: [name: string, iss: string, secret: string][] = [
  ['the settings', TEST_ISSUER, TEST_SECRET],
  ['initech', INITECH, INITECH_SECRET],
];

describe.each(issuers)('a signature by the secret of %s', (_, iss, secret) => {
  const payload = () => serviceClaims(iss, { tenant_id: 'acme' });

  test('that is wrong is answered alike, whichever of its bytes is', async () => {
    const token = jws({ alg: 'HS256' }, payload(), hs256(secret));
    await publish(stage.url, token, note);
    const [header = '', body = '', signature = ''] = token.split('.');
    const bytes = Buffer.from(signature, 'base64url');
    const answers = new Set<string>();
    for (let i = 0; i < bytes.length; i += 1) {
      const wrong = Buffer.from(bytes);
      wrong.writeUInt8(wrong.readUInt8(i) ^ 1, i);
      const authorization = `Bearer ${header}.${body}.${wrong.toString('base64url')}`;
      const answer = await ask(stage, 'GET', '/v1/notifications', { authorization });
      answers.add(JSON.stringify([answer.status, answer.body, answer.headers.get('www-authenticate')]));
    }
    expect(answers.size).toBe(1);
    expect([...answers][0]).toContain('token_invalid');
  });

  test.each<[string, (secret: string) => string | Buffer]>([
    ['the beginning of it', (text) => text.slice(0, -1)],
    ['a longer one', (text) => `${text}x`],
    ['it in other capitals', (text) => text.toUpperCase()],
    ['it in base64', (text) => Buffer.from(text).toString('base64')],
    ['it in hexadecimal', (text) => Buffer.from(text).toString('hex')],
    ['it read as base64', (text) => Buffer.from(text, 'base64')],
  ])('is not made by %s', async (_name, change) => {
    const token = jws({ alg: 'HS256' }, payload(), hs256(change(secret)));
    await expectRefused(stage, token, { detail: 'signature' });
  });
});

test('a token that was taken before does not let in another one that begins or ends like it', async () => {
  for (const make of Object.values(GOOD)) {
    const token = make();
    await publish(stage.url, token, note);
    const [header = '', payload = '', signature = ''] = token.split('.');
    const other = `${signature.startsWith('A') ? 'B' : 'A'}${signature.slice(1)}`;
    await expectRefused(stage, `${header}.${payload}.${other}`, { detail: 'signature' });
    await publish(stage.url, token, note);
  }
});

test('the secret of an issuer stands neither in the database nor in the log', async () => {
  await publish(stage.url, GOOD['initech']?.() ?? '', note);
  const rows = await stage.database.query<{ row: string }>(
    `select i.*::text || encode(coalesce(sealed_secret, ''), 'escape') as row from issuers i`,
  );
  expect(rows.length).toBeGreaterThan(0);
  for (const text of [...rows.map(({ row }) => row), ...stage.log]) {
    expect(text).not.toContain(INITECH_SECRET);
    expect(text).not.toContain(Buffer.from(INITECH_SECRET).toString('hex'));
    expect(text).not.toContain(TEST_SECRET);
  }
});

test('a refusal tells a stranger nothing of which issuers, keys or tenants there are beyond the token that was sent', async () => {
  const unknown = jws({ alg: 'HS256' }, serviceClaims('https://nobody.example/'), hs256('x'));
  const known = jws({ alg: 'HS256' }, serviceClaims(ACME), hs256('x'));
  for (const token of [unknown, known]) {
    const { text } = await ask(stage, 'GET', '/v1/notifications', { authorization: `Bearer ${token}` });
    for (const name of ['acme', 'globex', 'initech', 'umbrella', 'hooli', '.example'])
      expect(text).not.toContain(name);
  }
});
