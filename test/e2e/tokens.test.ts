import { request as httpRequest, type IncomingMessage } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Controller, Get } from '@nestjs/common';
import { Public, UserOnly } from '../../src/http/access.ts';
import { startGuarded, type GuardedApp } from '../support/guarded-app.ts';
import { serviceToken, sign, TEST_SECRET, userToken } from '../support/tokens.ts';

let service: GuardedApp;
beforeAll(async () => {
  service = await startGuarded();
});
afterAll(async () => {
  await service.close();
});

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const now = () => Math.floor(Date.now() / 1000);
const claims = (changes: Record<string, unknown> = {}) => ({
  iss: 'tidings',
  aud: 'tidings',
  sub: 'alice',
  tenant_id: 'acme',
  exp: now() + 60,
  ...changes,
});
const hs256 = (payload: unknown, header: Record<string, unknown> = {}) =>
  sign(payload, { ...header, alg: 'HS256' }, TEST_SECRET);
const withoutSignature = (token: string) => token.slice(0, token.lastIndexOf('.') + 1);

async function call(path: string, headers: Record<string, string> = {}, init: RequestInit = {}) {
  const response = await fetch(`${service.url}${path}`, { ...init, headers });
  const text = await response.text();
  const body: Record<string, unknown> = JSON.parse(text);
  return {
    status: response.status,
    headers: response.headers,
    text,
    body,
  };
}

/** A request that `fetch` would not send as it is. */
async function rawCall(headers: string[], path = '/stream', method = 'GET'): Promise<IncomingMessage> {
  const { hostname, port } = new URL(service.url);
  const sent = httpRequest({
    host: hostname,
    port,
    path,
    method,
    headers: ['Host', 'localhost', ...headers],
  });
  sent.on('error', () => undefined);
  sent.flushHeaders();
  if (method === 'GET') sent.end();
  const response = await new Promise<IncomingMessage>((resolve) => sent.once('response', resolve));
  response.resume();
  response.once('close', () => sent.destroy());
  return response;
}

describe('a caller without a token', () => {
  const challenge = 'Bearer realm="tidings"';

  test.each([
    ['nothing', {}],
    ['an empty header', { authorization: '' }],
    ['another scheme', { authorization: 'Basic YWxpY2U6c2VjcmV0' }],
    ['a scheme that only begins like ours', { authorization: `BearerToken ${userToken()}` }],
    ['the bare token', { authorization: userToken() }],
    ['the token in a header of its own', { 'x-access-token': userToken() }],
    ['the token in a cookie', { cookie: `token=${userToken()}` }],
  ])('who sends %s is asked for one and told of no error', async (_, headers) => {
    const { status, headers: answered, body } = await call('/stream', headers);
    expect(status).toBe(401);
    expect(body).toMatchObject({ code: 'token_missing', status: 401 });
    expect(answered.get('content-type')).toContain('application/problem+json');
    expect(answered.get('www-authenticate')).toBe(challenge);
  });

  test('may call what is public, also with a token that is none', async () => {
    const plain = await fetch(`${service.url}/public`);
    const odd = await fetch(`${service.url}/public`, { headers: bearer('garbage') });
    expect([plain.status, odd.status]).toEqual([200, 200]);
  });
});

describe('a token is refused', () => {
  const wrongTenants = [undefined, null, 7, '', 'a b', 'a'.repeat(65), ['acme'], { id: 'acme' }];
  const wrongSubjects = [undefined, null, 7, '', 'a'.repeat(257), 'a\u0000', ['alice'], { id: 'alice' }];
  const wrongEnds = [undefined, null, 'tomorrow', 1e300, 1e15, [4e9]];

  const tokens: [name: string, check: string, make: () => string][] = [
    ['that is garbage', 'not a signed', () => 'garbage'],
    ['of two parts', 'not a signed', () => 'e30.e30'],
    ['of four parts', 'signature', () => `${userToken()}.e30`],
    [
      'with a header that is no JSON',
      'not a signed',
      () => `AAAA.${hs256(claims()).split('.').slice(1).join('.')}`,
    ],
    [
      'with a header that is no object',
      'not a signed',
      () => `bnVsbA.${hs256(claims()).split('.').slice(1).join('.')}`,
    ],
    [
      'with another key',
      'signature',
      () => userToken({ secret: 'another secret that is as long as the right one' }),
    ],
    ['whose payload was exchanged', 'signature', () => exchanged(userToken(), userToken({ user: 'bob' }))],
    ['without signature', 'signature', () => withoutSignature(userToken())],
    ['without signature that says so', '`alg`', () => sign(claims(), { alg: 'none' }, TEST_SECRET)],
    ['without signature that says so loudly', '`alg`', () => sign(claims(), { alg: 'NONE' }, TEST_SECRET)],
    ['of another algorithm by name', '`alg`', () => sign(claims(), { alg: 'HS512' }, TEST_SECRET)],
    [
      'of an algorithm that is no text',
      'not a signed',
      () => hs256(claims(), {}).replace(/^[^.]+/, base64({ alg: ['HS256'] })),
    ],
    [
      'that brings its own key',
      'signature',
      () => sign(claims(), { alg: 'HS256', jwk: { kty: 'oct', k: 'YQ' } }, 'a'),
    ],
    ['with an extension that must be understood', '`crit`', () => hs256(claims(), { crit: ['exp'], exp: 1 })],
    ['with an empty list of extensions', '`crit`', () => hs256(claims(), { crit: [] })],
    ['with an unencoded payload', '`crit`', () => hs256(claims(), { crit: ['b64'], b64: false })],
    ['that is a logout token', '`typ`', () => hs256(claims(), { typ: 'logout+jwt' })],
    ['whose type is no text', 'not a signed', () => hs256(claims(), { typ: ['JWT'] })],
    ['whose payload is null', 'not a JSON object', () => hs256('null', { typ: 'JWT' })],
    ['whose payload is a list', 'not a JSON object', () => hs256([claims()], { typ: 'JWT' })],
    ['whose payload is text', 'not a JSON object', () => hs256('alice', { typ: 'JWT' })],
    ['whose payload is a number', 'not a JSON object', () => hs256('7')],
    ['that has expired', 'expired', () => hs256(claims({ exp: now() - 10 }))],
    ['that is not valid yet', 'not valid yet', () => hs256(claims({ nbf: now() + 30 }))],
    ['of another issuer', '`iss`', () => hs256(claims({ iss: 'someone' }))],
    ['of no issuer', '`iss`', () => hs256(claims({ iss: undefined }))],
    ['for another audience', '`aud`', () => hs256(claims({ aud: 'someone' }))],
    ['for no audience', '`aud`', () => hs256(claims({ aud: undefined }))],
    [
      'with scopes that are no texts',
      '`scope`',
      () => hs256(claims({ scope: ['notifications:publish', 1] })),
    ],
    ['with topics in an object', '`topics`', () => hs256(claims({ topics: { news: 1 } }))],
    ['with a topic twice', '`topics`', () => hs256(claims({ topics: ['a', 'a'] }))],
    [
      'with too many topics',
      '100 topics',
      () => hs256(claims({ topics: Array.from({ length: 101 }, (_, i) => `t${i}`) })),
    ],
    ['with an issue time in text', '`iat`', () => hs256(claims({ iat: 'now' }))],
    ['with a device outside the grammar', '`device`', () => hs256(claims({ device: 'my phone' }))],
    ['that is longer than 8 KiB', 'longer than', () => hs256(claims({ padding: 'x'.repeat(8 * 1024) }))],
    ...wrongTenants.map((tenant): [string, string, () => string] => [
      `with the tenant ${JSON.stringify(tenant)}`,
      '`tenant_id`',
      () => hs256(claims({ tenant_id: tenant })),
    ]),
    ...wrongSubjects.map((sub): [string, string, () => string] => [
      `with the subject ${JSON.stringify(sub)}`,
      '`sub`',
      () => hs256(claims({ sub })),
    ]),
    ...wrongEnds.map((exp): [string, string, () => string] => [
      `with the end ${JSON.stringify(exp)}`,
      '`exp`',
      () => hs256(claims({ exp })),
    ]),
  ];

  test.each(tokens)('%s', async (_, check, make) => {
    const token = make();
    for (const [path, method] of [
      ['/stream', 'GET'],
      ['/publish', 'POST'],
    ] as const) {
      const { status, body, headers, text } = await call(path, bearer(token), { method });
      expect({ status, code: body['code'] }).toEqual({ status: 401, code: 'token_invalid' });
      expect(body['detail']).toContain(check);
      expect(headers.get('www-authenticate')).toBe(
        `Bearer realm="tidings", error="invalid_token", error_description="${String(body['detail'])}"`,
      );
      expect(text).not.toContain(token);
      expect(text).not.toMatch(/jwt|jsonwebtoken|zod|acme|alice/i);
    }
  });

  test('if a second one comes along', async () => {
    const one = `Bearer ${userToken()}`;
    const response = await rawCall(['Authorization', one, 'authorization', one]);
    expect(response.statusCode).toBe(401);
    expect(response.headers['www-authenticate']).toContain('error="invalid_token"');
  });

  test.each([
    ['Bearer '],
    ['Bearer <token> a'],
    ['Bearer a <token>'],
    ['Bearer\t<token>'],
    ['Bearer "<token>"'],
    ['Bearer <token>,a'],
    ['Bearer <token>ä'],
  ])('when the header reads %j', async (template) => {
    const authorization = template.replace('<token>', userToken());
    expect((await rawCall(['Authorization', authorization])).statusCode).toBe(401);
  });
});

describe('a good token', () => {
  test.each([
    ['Bearer', `Bearer ${userToken()}`],
    ['bearer', `bearer ${userToken()}`],
    ['BEARER and two spaces', `BEARER  ${userToken()}`],
  ])('is taken under the scheme %s', async (_, authorization) => {
    const { status, body } = await call('/stream', { authorization });
    expect({ status, body }).toMatchObject({ status: 200, body: { tenant: 'acme', subject: 'alice' } });
  });

  test.each([undefined, 'JWT', 'jwt', 'at+jwt', 'AT+JWT', 'application/at+jwt'])(
    'may be of type %s',
    async (typ) => {
      expect((await call('/stream', bearer(hs256(claims(), { typ })))).status).toBe(200);
    },
  );

  test('may be meant for several audiences', async () => {
    expect((await call('/stream', bearer(hs256(claims({ aud: ['a', 'tidings'] }))))).status).toBe(200);
  });

  test('says who is calling, with topics and device', async () => {
    const token = userToken({ tenant: 'globex', user: 'Zoë', topics: ['news'], device: 'phone' });
    const { body } = await call('/stream', bearer(token));
    expect(body).toEqual({ tenant: 'globex', subject: 'Zoë', topics: ['news'], device: 'phone' });
  });

  test('is forgiven a few seconds on a request, and none on what it would open', async () => {
    const late = bearer(hs256(claims({ exp: now() - 2 })));
    const request = await call('/acks', late, { method: 'POST' });
    const stream = await call('/stream', late);
    expect(request.status).toBe(201);
    expect(stream).toMatchObject({
      status: 401,
      body: { code: 'token_invalid', detail: 'The token has expired.' },
    });
  });
});

describe('what a token may do', () => {
  test.each([
    ['a user publishes', 'POST', '/publish', () => userToken(), 'notifications:publish'],
    [
      'an operator publishes',
      'POST',
      '/publish',
      () => serviceToken({ scope: 'history:read' }),
      'notifications:publish',
    ],
    [
      'a scope only resembles',
      'POST',
      '/publish',
      () => serviceToken({ scope: 'notifications:publish2' }),
      'notifications:publish',
    ],
    [
      'a scope is in other letters',
      'POST',
      '/publish',
      () => serviceToken({ scope: 'Notifications:Publish' }),
      'notifications:publish',
    ],
    ['a user looks up', 'GET', '/lookup', () => userToken(), 'notifications:publish history:read'],
  ])('is not enough when %s', async (_, method, path, make, scope) => {
    const { status, body, headers } = await call(path, bearer(make()), { method });
    expect({ status, code: body['code'] }).toEqual({ status: 403, code: 'scope_missing' });
    expect(headers.get('www-authenticate')).toBe(
      `Bearer realm="tidings", error="insufficient_scope", scope="${scope}"`,
    );
  });

  test.each([
    'notifications:publish',
    'history:read',
    'operations:write',
    'tenants:admin',
    'openid history:read',
  ])('is not to act as a user with the scope %s', async (scope) => {
    const token = bearer(serviceToken({ client: 'alice', scope }));
    const stream = await call('/stream', token);
    const ack = await call('/acks', token, { method: 'POST' });
    expect([stream, ack]).toMatchObject([
      { status: 403, body: { code: 'not_for_services' } },
      { status: 403, body: { code: 'not_for_services' } },
    ]);
  });

  test('follows its scopes: one of several is enough, and others do no harm', async () => {
    const publish = await call('/publish', bearer(serviceToken({ scope: 'openid notifications:publish' })), {
      method: 'POST',
    });
    const lookup = await call('/lookup', bearer(serviceToken({ scope: 'history:read' })));
    const stream = await call('/stream', bearer(userToken({ claims: { scope: 'openid email' } })));
    expect([publish.status, lookup.status, stream.status]).toEqual([201, 200, 200]);
  });
});

describe('a token in the URL', () => {
  const secret = userToken();

  test.each([
    [`/stream?access_token=${secret}`],
    [`/stream?token=${secret}`],
    [`/stream?jwt=${secret}`],
    [`/stream?from=latest&Access_Token=${secret}`],
    [`/stream?%61ccess%5ftoken=${secret}`],
    [`/public?token=${secret}`],
    [`/nowhere?token=${secret}`],
    [`/stream?token`],
  ])('is refused before anything else and not repeated: %s', async (path) => {
    for (const headers of [{}, bearer(secret)]) {
      const answer = await call(path, headers);
      expect(answer).toMatchObject({ status: 400, body: { code: 'token_in_query' } });
      expect(answer.headers.get('www-authenticate')).toBe('Bearer realm="tidings", error="invalid_request"');
      expect(answer.text + JSON.stringify([...answer.headers])).not.toContain(secret);
    }
  });

  test('is not seen in parameters that only resemble', async () => {
    expect((await call('/stream?tokens=1&x=token', bearer(secret))).status).toBe(200);
  });
});

describe('before a body is read', () => {
  const megabytes = ['Content-Type', 'application/json', 'Content-Length', String(8 * 1024 * 1024)];

  test.each([
    ['nobody knows', megabytes],
    ['comes with a bad token', [...megabytes, 'Authorization', 'Bearer garbage']],
    ['does not say how long it is', ['Content-Type', 'application/json', 'Transfer-Encoding', 'chunked']],
  ])('a caller who %s is refused', async (_, headers) => {
    const response = await rawCall(headers, '/publish', 'POST');
    expect(response.statusCode).toBe(401);
  });

  test('also where no route is', async () => {
    expect((await rawCall(megabytes, '/nowhere', 'POST')).statusCode).toBe(401);
    expect((await call('/nowhere', {}, { method: 'POST' })).status).toBe(404);
  });

  test('a browser may read the refusal', async () => {
    const headers = { origin: 'https://app.example', 'content-type': 'application/json' };
    const early = await call('/publish', headers, { method: 'POST', body: '{}' });
    const query = await call('/stream?token=x', headers);
    expect([early, query]).toMatchObject([{ status: 401 }, { status: 400 }]);
    for (const answer of [early, query]) {
      expect(answer.headers.get('access-control-allow-origin')).toBe('https://app.example');
    }
  });
});

describe('the application', () => {
  test('does not start with a route that says nothing about its callers', async () => {
    @Controller()
    class Forgetful {
      @Get('declared')
      @Public()
      declared(): void {}

      @Get('forgotten')
      forgotten(): void {}

      helper(): void {}
    }
    await expect(startGuarded(undefined, [Forgetful])).rejects.toThrow(/missing on Forgetful\.forgotten\.$/);
  });

  test('has no route that says two things about its callers', () => {
    expect(() => {
      class Undecided {
        @UserOnly()
        @Public()
        handler(): void {}
      }
      return Undecided;
    }).toThrow(/Undecided\.handler declares twice/);
  });

  test('keeps to its own key when another runs in the same process', async () => {
    const secret = 'the secret of the other, longer than thirty-two bytes';
    const other = await startGuarded({ JWT_SECRET: secret });
    try {
      const statuses = async (url: string) => {
        const answers = [userToken(), userToken({ secret })].map((token) =>
          fetch(`${url}/stream`, { headers: bearer(token) }),
        );
        return (await Promise.all(answers)).map(({ status }) => status);
      };
      expect(await statuses(service.url)).toEqual([200, 401]);
      expect(await statuses(other.url)).toEqual([401, 200]);
    } finally {
      await other.close();
    }
  });
});

function base64(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}

function exchanged(token: string, other: string): string {
  const [header = '', , signature = ''] = token.split('.');
  return [header, other.split('.')[1], signature].join('.');
}
