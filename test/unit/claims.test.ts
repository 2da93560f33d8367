import { describe, expect, test } from '@jest/globals';
import { readClaims, type IssuerRules } from '../../src/auth/claims.ts';
import { readConfig } from '../../src/core/config.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { type ClaimNames, DEFAULT_CLAIMS, environmentRules } from '../../src/auth/issuer.ts';

const NOW = 1_790_000_000;
const DAY = 86_400;
const config = readConfig({
  JWT_ISSUER: 'https://id.example/',
  JWT_AUDIENCE: 'tidings',
});
const rules = environmentRules(config);
const limits = { ...config, topicsPerToken: () => 3 };
const good = { iss: 'https://id.example/', aud: 'tidings', exp: NOW + 60, sub: 'alice', tenant_id: 'acme' };

const read = (claims: Record<string, unknown>, now = NOW) =>
  readClaims({ ...good, ...claims }, rules, limits, now * 1000);

describe('the topics of a service', () => {
  const publishesTo = (claims: Record<string, unknown>) =>
    read({ scope: 'notifications:publish', ...claims }).principal?.publishesTo;

  test('are those that it may publish to, none of them if the list is empty', () => {
    expect(publishesTo({ topics: ['news', 'sport'] })).toEqual(new Set(['news', 'sport']));
    expect(publishesTo({ topics: 'news sport' })).toEqual(new Set(['news', 'sport']));
    expect(publishesTo({ topics: [] })).toEqual(new Set());
    expect(publishesTo({ topics: '' })).toEqual(new Set());
  });

  test('are all without the claim, and of no meaning for a user', () => {
    expect(publishesTo({})).toBeUndefined();
    expect(publishesTo({ scope: 'openid', topics: ['news'] })).toBeUndefined();
  });

  test('spoil the token if they are none', () => {
    expect(read({ scope: 'notifications:publish', topics: null }).refused).toMatch(/`topics`/);
    expect(read({ scope: 'notifications:publish', topics: { news: true } }).refused).toMatch(/`topics`/);
  });
});

describe('a payload that stands for a caller', () => {
  test('needs no more than issuer, audience, end, tenant and subject', () => {
    expect(readClaims(good, rules, limits, NOW * 1000).principal).toEqual({
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
    ['topics in one text', { topics: ' a  b c' }],
    ['an issue within the tolerance', { iat: NOW + 5 }],
    ['the longest life', { iat: NOW - 10, exp: NOW - 10 + 3_650 * DAY }],
    ['the longest token id', { jti: 'j'.repeat(255) }],
    ['scopes as a list', { scope: ['history:read', 'openid'] }],
    ['several scopes in one word of a list', { scope: ['history:read openid'] }],
    ['an empty scope', { scope: '' }],
    ['the longest subject', { sub: '🙂'.repeat(256) }],
    ['the longest tenant', { tenant_id: 'a'.repeat(64) }],
  ])('may have %s', (_, claims) => {
    expect(read(claims).refused).toBeUndefined();
  });

  test('is a service by a scope that stands in a list beside others, in one text', () => {
    expect(read({ scope: ['openid notifications:publish'] }).principal?.scopes).toEqual(
      new Set(['openid', 'notifications:publish']),
    );
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
    ['an issue to come', { iat: NOW + 5.001 }, /`iat` lies in the future/],
    ['an issue beyond all calendars', { iat: 1e300 }, /`iat` lies in the future/],
    ['a life of a second too long', { iat: NOW - 10, exp: NOW - 9 + 3_650 * DAY }, /longer than 3650 days/],
    ['too long a life without an issue', { exp: NOW + 1 + 3_650 * DAY }, /longer than 3650 days/],
    ['an issue before the beginning of time', { iat: -1e300 }, /longer than 3650 days/],
    ['an empty token id', { jti: '' }, /`jti`/],
    ['a token id that is too long', { jti: 'j'.repeat(256) }, /`jti`/],
    ['a token id that is a number', { jti: 7 }, /`jti`/],
    ['a token id that is null', { jti: null }, /`jti`/],
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
      expect(readClaims(payload, rules, limits, NOW * 1000).refused).toEqual(expect.any(String));
    },
  );

  test('and the sentence fits into a header and quotes nothing from the token', () => {
    for (const name of [
      'iss',
      'aud',
      'exp',
      'nbf',
      'iat',
      'jti',
      'tenant_id',
      'sub',
      'scope',
      'topics',
      'device',
    ]) {
      const { refused } = read({ [name]: { 'häß"lich': true } });
      // The characters of error_description, RFC 6750 §3.
      expect(refused).toMatch(/^[\x20\x21\x23-\x5b\x5d-\x7e]+$/);
      expect(refused).not.toContain('lich');
    }
  });
});

const tenant = (id: string) => tenantIdSchema.parse(id);

/** The rules of an issuer that was registered for the tenant acme, with these names for its claims. */
const registered = (claims: Partial<ClaimNames>, change: Partial<IssuerRules> = {}): IssuerRules => ({
  ...rules,
  tenants: { kind: 'fixed', tenantId: tenant('acme') },
  claims: { ...DEFAULT_CLAIMS, ...claims },
  scopes: new Set(['notifications:publish', 'history:read']),
  ...change,
});

const readBy = (issuer: IssuerRules, claims: object) =>
  readClaims({ ...good, tenant_id: undefined, ...claims }, issuer, limits, NOW * 1000);

/** The topics that a token has by a name for them. */
const topicsAt = (name: string, claims: object) =>
  readBy(registered({ topics: name }), claims).principal?.topics;

describe('claims under the names of a registration', () => {
  test('are found by those, and no longer by the usual ones', () => {
    const issuer = registered(
      { tenant: 'org', user: 'oid', topics: 'groups', device: 'did', scopes: ['scp'] },
      { tenants: { kind: 'listed', tenantIds: new Set([tenant('acme')]) } },
    );
    const theirs = { org: 'acme', oid: 'u-1', groups: ['news'], did: 'phone', scp: 'history:read' };
    const ours = {
      sub: 'alice',
      tenant_id: 'other',
      topics: ['x'],
      device: 'y',
      scope: 'notifications:publish',
    };
    expect(readBy(issuer, { ...theirs, ...ours }).principal).toMatchObject({
      tenantId: 'acme',
      subject: 'u-1',
      topics: ['news'],
      device: 'phone',
      scopes: new Set(['history:read']),
    });
    expect(readBy(issuer, { ...ours, ...theirs, oid: undefined }).refused).toMatch(/`oid`/);
  });

  test('may be the same claim twice: a client that is its own user', () => {
    expect(readBy(registered({ user: 'azp', device: 'azp' }), { azp: 'app-1' }).principal).toMatchObject({
      subject: 'app-1',
      device: 'app-1',
    });
  });

  test.each<[string, string, object]>([
    ['nested', '/realm_access/roles', { realm_access: { roles: ['found'] } }],
    ['at the top', '/groups', { groups: ['found'] }],
    ['with a slash in its name', '/https:~1~1id.example~1groups', { 'https://id.example/groups': ['found'] }],
    ['with a slash, named plainly', 'https://id.example/groups', { 'https://id.example/groups': ['found'] }],
    ['with a tilde in its name', '/a~0b', { 'a~b': ['found'] }],
    ['with what looks like an escape in its name', '/a~01', { 'a~1': ['found'] }],
    ['in a list', '/orgs/1/teams', { orgs: [{}, { teams: ['found'] }] }],
    ['with an empty name', '/', { '': ['found'] }],
    ['below an empty name', '//x', { '': { x: ['found'] } }],
    ['with a dot in its name', 'a.b', { 'a.b': ['found'], a: { b: ['wrong'] } }],
    ['called constructor', 'constructor', { constructor: ['found'] }],
    ['below one called constructor', '/constructor/name', { constructor: { name: ['found'] } }],
    ['called __proto__', '/__proto__/x', JSON.parse('{"__proto__":{"x":["found"]}}')],
  ])('may be one that is %s', (_, name, claims) => {
    expect(topicsAt(name, claims)).toEqual(['found']);
  });

  test.each<[string, string, object]>([
    ['what every object inherits', 'constructor', {}],
    ['the name of what every object inherits', '/constructor/name', {}],
    ['the prototype', '/__proto__', {}],
    ['a method of lists', '/roles/at', { roles: ['x'] }],
    ['a part of a text', '/name/0', { name: 'xyz' }],
    ['a claim behind a text', '/a/b', { a: 'b' }],
    ['a claim behind null', '/a/b', { a: null }],
    ['a claim behind nothing', '/a/b/c', {}],
    ['a claim of another case', '/Groups', { groups: ['x'] }],
    ['an element that is written otherwise', '/roles/00', { roles: [['x']] }],
  ])('are missing where there is only %s', (_, name, claims) => {
    expect(topicsAt(name, claims)).toEqual([]);
  });

  test('never come from what every object has', () => {
    for (const name of ['toString', '/constructor/name', '__proto__', '/__proto__/constructor/name']) {
      expect(readBy(registered({ user: name }), {}).refused).toContain(`\`${name}\``);
    }
  });

  test.each([
    ['a text', 'a b', ['a', 'b']],
    ['a list', ['a', 'b'], ['a', 'b']],
    ['a list of one that has a space', ['a b'], ['a b']],
    ['an empty text', '', []],
    ['a text of spaces', '   ', []],
    ['an empty list', [], []],
  ])('that hold several are %s', (_, groups, topics) => {
    expect(topicsAt('groups', { groups })).toEqual(topics);
  });

  test.each([[{ a: true }], [[['a']]], [7], [null], [['a', null]]])(
    'that hold %j, which is no words, refuse the token',
    (groups) => {
      expect(readBy(registered({ topics: 'groups' }), { groups }).refused).toMatch(/`groups`/);
    },
  );

  test('of scopes count together, and each may be missing', () => {
    const issuer = registered({ scopes: ['scp', '/realm_access/roles', 'permissions'] });
    const claims = { scp: 'openid history:read', realm_access: { roles: ['notifications:publish'] } };
    expect(readBy(issuer, claims).principal?.scopes).toEqual(
      new Set(['openid', 'history:read', 'notifications:publish']),
    );
    expect(readBy(issuer, {}).principal?.scopes).toEqual(new Set());
    expect(readBy(issuer, { ...claims, permissions: 7 }).refused).toMatch(
      /`scp` or `\/realm_access\/roles` or `permissions`/,
    );
  });
});

describe('the tenant of a token', () => {
  const listed = registered({}, { tenants: { kind: 'listed', tenantIds: new Set(['a', 'b'].map(tenant)) } });

  test.each([['other'], ['acme '], [7], [null], [['other']], [undefined]])(
    'of an issuer with one tenant is that one, though the token says %j',
    (tenant_id) => {
      expect(readBy(registered({}), { tenant_id }).principal?.tenantId).toBe('acme');
    },
  );

  test('of an issuer with several is the one that it names among them', () => {
    expect(readBy(listed, { tenant_id: 'b' }).principal?.tenantId).toBe('b');
  });

  test.each(['c', 'A', 'a.', 'ab', 'acme', '__proto__', 'constructor'])(
    'is refused if it is %j, for which the issuer is not registered',
    (tenant_id) => {
      expect(readBy(listed, { tenant_id }).refused).toBe(
        'The issuer of the token may not speak for its tenant.',
      );
    },
  );

  test.each([[undefined], ['a '], ['а'], ['a\n'], [['a']], [{ a: 1 }], ['']])(
    'is refused if it is %j, which is no tenant, whatever the issuer is registered for',
    (tenant_id) => {
      expect(readBy(listed, { tenant_id }).refused).toMatch(/`tenant_id`/);
    },
  );

  test('of an issuer with none is none', () => {
    const none = registered({}, { tenants: { kind: 'listed', tenantIds: new Set() } });
    expect(readBy(none, { tenant_id: 'acme' }).refused).toMatch(/may not speak/);
    expect(readBy(none, {}).refused).toMatch(/`tenant_id`/);
  });
});

describe('a scope for which the issuer is not registered', () => {
  test.each([
    ['alone', 'tenants:admin', 'tenants:admin'],
    ['among others', 'notifications:publish openid operations:write', 'operations:write'],
    ['in a list', ['notifications:publish', 'tenants:admin'], 'tenants:admin'],
  ])('refuses the token whole, %s', (_, scope, named) => {
    expect(readBy(registered({}), { scope }).refused).toBe(
      `The issuer of the token is not registered for the scope ${named}.`,
    );
  });

  test('refuses it in any of the claims for scopes', () => {
    const issuer = registered({ scopes: ['scope', 'roles'] });
    expect(readBy(issuer, { scope: 'history:read', roles: ['tenants:admin'] }).refused).toMatch(
      /tenants:admin/,
    );
  });

  test('is another matter than a scope that is not one of ours', () => {
    const { principal } = readBy(registered({}), { scope: 'tenants:admin2 TENANTS:ADMIN openid' });
    expect(principal?.scopes).toEqual(new Set(['tenants:admin2', 'TENANTS:ADMIN', 'openid']));
  });
});

test('a caller is known by issuer, token id and issue, in whole milliseconds', () => {
  const { principal } = readBy(registered({}), { jti: 'j-1', iat: NOW - 0.0001 });
  expect(principal).toMatchObject({
    issuer: 'https://id.example/',
    tokenId: 'j-1',
    issuedAt: NOW * 1000 - 1,
  });
});
