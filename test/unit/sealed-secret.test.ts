import { describe, expect, test } from '@jest/globals';
import { SecretSeal } from '../../src/auth/secrets.ts';

const KEY = 'a key of the settings, 32 bytes or more';
const ISSUER = '0190a0f0-0000-7000-8000-000000000001';
const SECRET = 'the secret of an issuer — 32 bytes or more';

describe('a sealed secret', () => {
  const seal = new SecretSeal(KEY);

  test('opens for its issuer, on any node with the key', () => {
    expect(new SecretSeal(KEY).open(ISSUER, seal.seal(ISSUER, SECRET))).toBe(SECRET);
  });

  test('does not show in what is stored, and is stored differently each time', () => {
    const sealed = seal.seal(ISSUER, SECRET);
    expect(sealed.toString('latin1')).not.toContain(SECRET.slice(0, 8));
    // A format byte, a nonce and a tag around it.
    expect(sealed).toHaveLength(1 + 12 + Buffer.byteLength(SECRET) + 16);
    expect(sealed).not.toEqual(seal.seal(ISSUER, SECRET));
  });

  test('does not open under another key', () => {
    const sealed = seal.seal(ISSUER, SECRET);
    expect(() => new SecretSeal(`${KEY}.`).open(ISSUER, sealed)).toThrow('ISSUER_SECRETS_KEY');
  });

  test('does not open in the row of another issuer', () => {
    const sealed = seal.seal(ISSUER, SECRET);
    expect(() => seal.open(ISSUER.replace(/1$/, '2'), sealed)).toThrow('ISSUER_SECRETS_KEY');
  });

  test('does not open once any byte of it was changed', () => {
    const sealed = seal.seal(ISSUER, SECRET);
    for (let i = 0; i < sealed.length; i++) {
      const altered = Buffer.from(sealed);
      altered.writeUInt8(sealed.readUInt8(i) ^ 1, i);
      expect(() => seal.open(ISSUER, altered)).toThrow('ISSUER_SECRETS_KEY');
    }
  });

  test('does not open cut short, and the error says nothing of the content', () => {
    const sealed = seal.seal(ISSUER, SECRET);
    for (const length of [0, 1, 12, 13, 28, 29, sealed.length - 1]) {
      expect(() => seal.open(ISSUER, sealed.subarray(0, length))).toThrow(
        new Error('The secret does not open with ISSUER_SECRETS_KEY.'),
      );
    }
  });
});
