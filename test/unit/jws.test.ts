import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { claimedIssuer, readHeader, readPayload } from '../../src/auth/claims.ts';
import { Problem } from '../../src/core/errors.ts';

const encode = (part: string | Buffer) => Buffer.from(part).toString('base64url');

/** A token with this header or payload; text goes in as it is. */
const headed = (header: unknown) => `${encode(textOf(header))}.${encode('{}')}.c2ln`;
const claiming = (payload: unknown) => `${encode('{"alg":"HS256"}')}.${encode(textOf(payload))}.c2ln`;
const textOf = (value: unknown) =>
  typeof value === 'string' || Buffer.isBuffer(value) ? value : JSON.stringify(value);

const read = (payload: string | Buffer) => readPayload(`e30.${Buffer.from(payload).toString('base64url')}.`);

/** The sentence that the caller is told. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (!(error instanceof Problem) || error.code !== 'token_invalid') throw error;
    return error.message;
  }
  throw new Error('It was accepted.');
}

describe('the header of a token', () => {
  test('gives algorithm, key id and type', () => {
    expect(readHeader(headed({ alg: 'RS256', kid: 'a', typ: 'JWT' }))).toEqual({
      alg: 'RS256',
      kid: 'a',
      typ: 'jwt',
    });
    expect(readHeader(headed({ alg: 'RS256' }))).toEqual({ alg: 'RS256', kid: undefined, typ: undefined });
  });

  test.each(['at+jwt', 'AT+JWT', 'application/at+jwt', 'Application/AT+jwt'])(
    'may say %s for an access token',
    (typ) => expect(readHeader(headed({ alg: 'RS256', typ })).typ).toBe('at+jwt'),
  );

  test('gives nothing of the keys that it names', () => {
    const header = { alg: 'RS256', jku: 'https://evil.example', jwk: { kty: 'oct' }, x5u: 'x', x5c: ['x'] };
    expect(Object.keys(readHeader(headed(header))).sort()).toEqual(['alg', 'kid', 'typ']);
  });

  test.each([
    ['a logout token', 'logout+jwt'],
    ['a proof of possession', 'dpop+jwt'],
    ['a security event', 'application/secevent+jwt'],
    ['a type within a type', 'application/application/at+jwt'],
    ['an empty type', ''],
  ])('that says %s is refused', (_, typ) => {
    expect(refusal(() => readHeader(headed({ alg: 'RS256', typ })))).toMatch(/`typ`/);
  });

  test.each([[['exp']], [[]], [null], ['b64'], [false]])('with crit %j is refused', (crit) => {
    expect(refusal(() => readHeader(headed({ alg: 'RS256', crit })))).toMatch(/`crit`/);
  });

  test.each([
    ['no alg', {}],
    ['an alg that is no text', { alg: ['RS256'] }],
    ['a kid that is no text', { alg: 'RS256', kid: 7 }],
    ['a kid that is null', { alg: 'RS256', kid: null }],
    ['a type that is no text', { alg: 'RS256', typ: {} }],
    ['a list', [{ alg: 'RS256' }]],
    ['null', null],
    ['text', '"RS256"'],
    ['half an object', '{"alg":"RS256"'],
    ['nothing', ''],
    ['bytes that are no UTF-8', Buffer.from('7b22616c67223a22ff227d', 'hex')],
  ])('with %s is refused', (_, header) => {
    expect(refusal(() => readHeader(headed(header)))).toMatch(/not a signed JSON Web Token/);
  });

  test.each(['', '.', '..', 'token', 'a.b', '%%%.%%%.%%%'])(
    'of %j, which is no token, is refused',
    (token) => {
      expect(refusal(() => readHeader(token))).toMatch(/not a signed JSON Web Token/);
    },
  );
});

describe('the issuer that a token claims', () => {
  test('is its `iss`, to the letter', () => {
    expect(claimedIssuer(claiming({ iss: 'https://id.example/' }))).toBe('https://id.example/');
    expect(claimedIssuer(claiming('{"iss":"https:\\/\\/id.example\\u002f"}'))).toBe('https://id.example/');
    expect(claimedIssuer(claiming({ iss: ' Tidings ' }))).toBe(' Tidings ');
  });

  test.each([[{}], [{ iss: 7 }], [{ iss: null }], [{ iss: ['https://id.example/'] }], [{ sub: 'x' }]])(
    'is refused in %j',
    (payload) => expect(refusal(() => claimedIssuer(claiming(payload)))).toMatch(/`iss`/),
  );

  test.each([['[]'], ['null'], ['"iss"'], ['7'], ['{'], ['']])('is refused in %s', (payload) => {
    expect(refusal(() => claimedIssuer(claiming(payload)))).toMatch(/not a JSON object/);
  });

  test('is refused in a token without a payload', () => {
    expect(refusal(() => claimedIssuer('eyJhbGciOiJIUzI1NiJ9'))).toMatch(/not a JSON object/);
  });
});

describe('the payload of a token', () => {
  test('is what JSON makes of it, if no name is there twice', () => {
    const nested = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.constantFrom<unknown>(null, true, 1.5, '', '}{][,:"\\', 'a\u0000b'),
        fc.array(tie('value'), { maxLength: 4 }),
        fc.dictionary(fc.string({ unit: 'binary', maxLength: 6 }), tie('value'), { maxKeys: 4 }),
      ),
    })).value;
    fc.assert(
      fc.property(nested, fc.nat(3), (claims, spaces) => {
        const text = JSON.stringify({ claims }, undefined, spaces);
        expect(read(text)).toEqual(JSON.parse(text));
      }),
    );
  });

  test('that names something twice is refused, wherever in it that is', () => {
    const steps = fc.array(fc.constantFrom('object', 'list'), { maxLength: 30 });
    const name = fc.string({ unit: 'binary', maxLength: 8 });
    fc.assert(
      fc.property(steps, name, (path, twice) => {
        const key = JSON.stringify(twice);
        const doubled = `{"":[], ${key}:1,"z_":{},${key}:1}`;
        const text = path.reduce(
          (inner, step) => (step === 'list' ? `[0,${inner}]` : `{"in":${inner}}`),
          doubled,
        );
        expect(refusal(() => read(`{"deep":${text}}`))).toMatch(/twice/);
      }),
    );
  });

  test.each([
    ['spelled with an escape', '{"sub":"alice","s\\u0075b":"bob"}'],
    ['with the same value', '{"sub":"alice","sub":"alice"}'],
    ['with space around it', '{ "sub" : "alice" ,\n "sub" : "bob" }'],
    ['called __proto__', '{"__proto__":1,"__proto__":2}'],
    ['behind text that looks like its end', '{"a":"}\\"","sub":1,"sub":2}'],
  ])('that has a name twice, %s, is refused', (_, text) => {
    expect(refusal(() => read(text))).toMatch(/twice/);
  });

  test('may have one name in several places, and a name that differs in case', () => {
    expect(read('{"a":{"a":[{"a":1},{"a":2}]},"A":1}')).toEqual({ a: { a: [{ a: 1 }, { a: 2 }] }, A: 1 });
  });

  test.each([
    ['objects', (depth: number) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`],
    ['lists', (depth: number) => `${'['.repeat(depth)}1${']'.repeat(depth)}`],
  ])('may have %s within one another 32 times, and no deeper', (_, nested) => {
    expect(read(nested(32))).toBeDefined();
    expect(refusal(() => read(nested(33)))).toMatch(/nested too deeply/);
    expect(refusal(() => read(nested(3_000)))).toMatch(/nested too deeply/);
  });

  test.each([
    ['no JSON', 'sub=alice'],
    ['nothing', ''],
    ['two objects', '{}{}'],
    ['bytes that are no UTF-8', Buffer.from('7b22737562223a22ff227d', 'hex')],
    ['half a character', Buffer.from('7b22737562223a22c3227d', 'hex')],
  ])('that is %s is refused', (_, payload) => {
    expect(refusal(() => read(payload))).toMatch(/not a JSON object/);
  });

  test('is not told to anybody when it is refused', () => {
    for (const text of ['{"secret":1,"secret":2}', '{"secret"', '"secret"}'])
      expect(refusal(() => read(text))).not.toMatch(/secret/);
  });
});
