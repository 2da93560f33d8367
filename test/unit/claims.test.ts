import { describe, expect, test } from '@jest/globals';
import { readClaims } from '../../src/auth/claims.ts';
import { readConfig } from '../../src/config.ts';
import { environmentRules } from '../../src/issuers/environment.ts';

const NOW = 1_790_000_000;
const config = readConfig({
  JWT_ISSUER: 'https://id.example/',
  JWT_AUDIENCE: 'tidings',
  MAX_TOPICS_PER_TOKEN: '3',
});
const rules = environmentRules(config);
const good = { iss: 'https://id.example/', aud: 'tidings', exp: NOW + 60, sub: 'alice', tenant_id: 'acme' };

const read = (claims: Record<string, unknown>, now = NOW) =>
  readClaims({ ...good, ...claims }, rules, config, now * 1000);

describe('a payload that stands for a caller', () => {
  test('needs no more than issuer, audience, end, tenant and subject', () => {
    expect(readClaims(good, rules, config, NOW * 1000).principal).toEqual({
      tenantId: 'acme',
      subject: 'alice',
      scopes: new Set(),
      topics: [],
      device: undefined,
      expiresAt: (NOW + 60) * 1000,
      issuer: 'https://id.example/',
      tokenId: undefined,
      issuedAt: undefined,
    });
  });

  test('may carry scopes, topics and a device, and claims that mean nothing here', () => {
    const { principal } = read({
      scope: ' history:read  openid ',
      topics: ['news', 'Störung 🙂'],
      device: 'phone-1',
      azp: { any: 'thing' },
    });
    expect(principal?.scopes).toEqual(new Set(['history:read', 'openid']));
    expect(principal?.topics).toEqual(['news', 'Störung 🙂']);
    expect(principal?.device).toBe('phone-1');
  });

  test.each([
    ['an audience among others', { aud: ['billing', 'tidings'] }],
    ['an end in fractions of a second', { exp: NOW + 0.5 }],
    ['an end within the tolerance', { exp: NOW - 4.999 }],
    ['a beginning within the tolerance', { nbf: NOW + 5 }],
    ['a beginning and an issue in the past', { nbf: NOW - 10, iat: NOW - 10 }],
    ['as many topics as are allowed', { topics: ['a', 'b', 'c'] }],
    ['no topics', { topics: [] }],
    ['an empty scope', { scope: '' }],
    ['the longest subject', { sub: '🙂'.repeat(256) }],
    ['the longest tenant', { tenant_id: 'a'.repeat(64) }],
  ])('may have %s', (_, claims) => {
    expect(read(claims).refused).toBeUndefined();
  });

  test('never lives longer than its token says, not by a part of a millisecond', () => {
    expect(read({ exp: NOW + 0.0019 }).principal?.expiresAt).toBe(NOW * 1000 + 1);
  });
});

describe('a payload is refused with a sentence that names the check', () => {
  test.each<[string, Record<string, unknown>, RegExp]>([
    ['no issuer', { iss: undefined }, /`iss`/],
    ['another issuer', { iss: 'https://id.example' }, /`iss`/],
    ['a list of issuers', { iss: ['https://id.example/'] }, /`iss`/],
    ['no audience', { aud: undefined }, /`aud`/],
    ['another audience', { aud: 'tidings2' }, /`aud`/],
    ['an empty list of audiences', { aud: [] }, /`aud`/],
    ['an audience that only begins like ours', { aud: ['tidings/admin'] }, /`aud`/],
    ['an audience among things that are no text', { aud: ['tidings', 1] }, /`aud`/],
    ['no end', { exp: undefined }, /`exp`/],
    ['an end that is text', { exp: String(NOW + 60) }, /`exp`/],
    ['an end that is null', { exp: null }, /`exp`/],
    ['an end beyond all calendars', { exp: 1e300 }, /`exp`/],
    ['an end that is no finite number', JSON.parse('{"exp":1e999}'), /`exp`/],
    ['an end one second after the last that has a date', { exp: 253_402_300_800 }, /`exp`/],
    ['an end that has passed', { exp: NOW - 5 }, /expired/],
    ['an end before the beginning of time', { exp: -1e300 }, /expired/],
    ['a beginning to come', { nbf: NOW + 5.001 }, /not valid yet/],
    ['a beginning that is text', { nbf: '0' }, /`nbf`/],
    ['a beginning beyond all calendars', { nbf: 1e300 }, /not valid yet/],
    ['an issue that is text', { iat: 'today' }, /`iat`/],
    ['no tenant', { tenant_id: undefined }, /`tenant_id`/],
    ['an empty tenant', { tenant_id: '' }, /`tenant_id`/],
    ['a tenant that is too long', { tenant_id: 'a'.repeat(65) }, /`tenant_id`/],
    ['a tenant outside the alphabet', { tenant_id: 'acme/../other' }, /`tenant_id`/],
    ['a tenant with a line break', { tenant_id: 'acme\n' }, /`tenant_id`/],
    ['a tenant that is a number', { tenant_id: 7 }, /`tenant_id`/],
    ['a list of tenants', { tenant_id: ['acme'] }, /`tenant_id`/],
    ['no subject', { sub: undefined }, /`sub`/],
    ['an empty subject', { sub: '' }, /`sub`/],
    ['a subject that is a number', { sub: 7 }, /`sub`/],
    ['a subject that is an object', { sub: { id: 'alice' } }, /`sub`/],
    ['a subject that is too long', { sub: 'a'.repeat(257) }, /`sub`/],
    ['a subject with a NUL', { sub: 'alice\0' }, /`sub`/],
    ['a subject with half a surrogate pair', { sub: 'alice\ud800' }, /`sub`/],
    ['scopes that are no texts', { scope: ['notifications:publish', 7] }, /`scope`/],
    ['a scope that is null', { scope: null }, /`scope`/],
    ['topics as an object', { topics: { news: true } }, /`topics`/],
    ['an empty topic', { topics: [''] }, /`topics`/],
    ['a topic that is a number', { topics: [1] }, /`topics`/],
    ['a topic that is too long', { topics: ['a'.repeat(257)] }, /`topics`/],
    ['a topic twice', { topics: ['a', 'a'] }, /`topics`/],
    ['a topic too many', { topics: ['a', 'b', 'c', 'd'] }, /more than 3 topics/],
    ['an empty device', { device: '' }, /`device`/],
    ['a device that is too long', { device: 'a'.repeat(65) }, /`device`/],
    ['a device outside the alphabet', { device: 'my phone' }, /`device`/],
    ['a device that is null', { device: null }, /`device`/],
  ])('%s', (_, claims, reason) => {
    const verdict = read(claims);
    expect(verdict.principal).toBeUndefined();
    expect(verdict.refused).toMatch(reason);
  });

  test.each([[null], ['text'], [7], [[]], [[good]], [undefined]])(
    '%j, which is no object of claims',
    (payload) => {
      expect(readClaims(payload, rules, config, NOW * 1000).refused).toEqual(expect.any(String));
    },
  );

  test('and the sentence fits into a header and quotes nothing from the token', () => {
    for (const name of ['iss', 'aud', 'exp', 'nbf', 'iat', 'tenant_id', 'sub', 'scope', 'topics', 'device']) {
      const { refused } = read({ [name]: { 'häß"lich': true } });
      // The characters of error_description, RFC 6750 §3.
      expect(refused).toMatch(/^[\x20\x21\x23-\x5b\x5d-\x7e]+$/);
      expect(refused).not.toContain('lich');
    }
  });
});
