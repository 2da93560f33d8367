import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Operations } from '../../src/openapi/document.ts';
import { SERVICE_SCOPES } from '../../src/core/identifiers.ts';
import { call } from '../support/admin.ts';
import { startService, type Service } from '../support/app.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const NOBODYS = '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

/** Which scopes open which route, by hand: the decorators, and with them the reference, are held against it. */
const ROUTES: readonly [route: string, scopes: readonly string[]][] = [
  ['get /v1/tenants', ['tenants:admin']],
  ['post /v1/tenants', ['tenants:admin']],
  ['get /v1/tenants/{id}', ['tenants:admin']],
  ['patch /v1/tenants/{id}', ['tenants:admin']],
  ['get /v1/tenants/{id}/audit', ['tenants:admin']],
  ['get /v1/issuers', ['tenants:admin']],
  ['post /v1/issuers', ['tenants:admin']],
  ['get /v1/issuers/{id}', ['tenants:admin']],
  ['patch /v1/issuers/{id}', ['tenants:admin']],
  ['delete /v1/issuers/{id}', ['tenants:admin']],
  ['get /v1/audit', ['history:read']],
  ['get /v1/revocations', ['history:read', 'operations:write']],
  ['post /v1/revocations', ['operations:write']],
  ['post /v1/users/{id}/disconnect', ['operations:write']],
  ['post /v1/users/disconnect', ['operations:write']],
  ['delete /v1/connections/{id}', ['operations:write']],
  ['get /v1/users/{id}/data', ['history:read']],
  ['delete /v1/users/{id}/data', ['operations:write']],
  ['get /v1/users/data', ['history:read']],
  ['delete /v1/users/data', ['operations:write']],
  ['get /v1/erasures/{id}', ['history:read', 'operations:write']],
  ['delete /v1/tenants/{id}', ['tenants:admin']],
];

test('every administrative route is in the table below', () => {
  const operations = service.app
    .get(Operations)
    .all.filter(({ tag }) => tag === 'Administration' || tag === 'Privacy');
  const scopes = operations.map(({ method, path, access }) => [
    `${method} ${path}`,
    access.kind === 'service' ? access.anyOf : access.kind,
  ]);
  expect(scopes).toHaveLength(ROUTES.length);
  expect(Object.fromEntries(scopes)).toEqual(Object.fromEntries(ROUTES));
});

describe.each(ROUTES)('%s', (route, scopes) => {
  const [method = '', path = ''] = route.split(' ');
  const ask = (token: string | undefined) => {
    const url = `${service.url}${path.replace('{id}', NOBODYS)}`;
    return call(
      method.toUpperCase(),
      url,
      token,
      method === 'post' || method === 'patch' ? { x: 1 } : undefined,
    );
  };

  test('takes no other scope, no user and no stranger', async () => {
    const others = SERVICE_SCOPES.filter((scope) => !scopes.includes(scope));
    for (const token of [
      ...others.map((scope) => serviceToken({ scope })),
      serviceToken({ scope: others.join(' ') }),
      userToken(),
      userToken({ claims: { scope: 'openid profile' } }),
    ]) {
      expect(await ask(token)).toMatchObject({ status: 403, body: { code: 'scope_missing' } });
    }
    expect(await ask(undefined)).toMatchObject({ status: 401, body: { code: 'token_missing' } });
  });

  test('lets each of its scopes in', async () => {
    for (const scope of scopes)
      expect([200, 204, 400, 404]).toContain((await ask(serviceToken({ scope }))).status);
  });
});
