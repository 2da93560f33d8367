import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type Operation, Operations } from '../../src/openapi/document.ts';
import { adminOf, call, KeyIssuer, operatorOf, readerOf } from '../support/admin.ts';
import { startService, type Service } from '../support/app.ts';

/* What the administrative routes answer, held against what their documentation says that they answer. */

let service: Service;
let operations: readonly Operation[];
beforeAll(async () => {
  service = await startService();
  // The deletion of a tenant ends the tenant that this test works with; documented-answers.test.ts has it.
  operations = service.app
    .get(Operations)
    .all.filter(({ tag, id }) => tag === 'Administration' && id !== 'deleteTenant');
});
afterAll(() => service.close());

const admin = adminOf('acme');
const operator = operatorOf('acme');
const reader = readerOf('acme');
const answered = new Set<string>();

/** Calls a route and checks its answer; returns the body. */
async function ask(
  method: string,
  path: string,
  token: string,
  { id = '', query = '', body }: { id?: string; query?: string; body?: unknown } = {},
) {
  const operation = operations.find((each) => each.path === path && each.method === method);
  const answer = await call(
    method.toUpperCase(),
    `${service.url}${path.replace('{id}', id)}${query}`,
    token,
    body,
  );
  const documented = operation?.answers.find(({ status }) => status === answer.status);
  if (documented === undefined)
    throw new Error(`${method} ${path} answered ${answer.status}, which is not documented`);
  const [content] = documented.content ?? [];
  if (content === undefined) expect(answer.body).toEqual({});
  else if ('schema' in content) content.schema.parse(answer.body);
  for (const header of documented.headers ?? []) expect(answer.headers.get(header)).not.toBeNull();
  answered.add(`${method} ${path}`);
  return answer.body;
}

test('every administrative route answers as documented', async () => {
  await ask('post', '/v1/tenants', admin, {
    body: { id: 'acme', name: 'Acme', corsOrigins: ['https://a.example'] },
  });
  await ask('get', '/v1/tenants/{id}', admin, { id: 'acme' });
  await ask('patch', '/v1/tenants/{id}', admin, { id: 'acme', body: { keptDays: 7 } });
  await ask('get', '/v1/tenants', admin);

  const registration = new KeyIssuer('https://id.example').registration({
    tenants: ['acme'],
    claims: { user: '/a/b' },
  });
  const { id } = await ask('post', '/v1/issuers', admin, { body: registration });
  await ask('get', '/v1/issuers/{id}', admin, { id: String(id) });
  const revokedBefore = '2026-01-01T00:00:00.000Z';
  await ask('patch', '/v1/issuers/{id}', admin, { id: String(id), body: { revokedBefore } });
  await ask('get', '/v1/issuers', admin);
  await ask('delete', '/v1/issuers/{id}', admin, { id: String(id) });

  await ask('post', '/v1/revocations', operator, { body: { user: 'alice' } });
  await ask('post', '/v1/revocations', operator, { body: { token: { jti: 'j' } } });
  await ask('get', '/v1/revocations', reader);
  await ask('post', '/v1/users/{id}/disconnect', operator, { id: 'alice' });
  await ask('post', '/v1/users/disconnect', operator, { query: '?user=..' });
  const connectionId = '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70';
  await service.database.query(
    `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position)
     select 'acme', $1, 'alice', 'phone', node, clock_timestamp(), 0 from nodes limit 1`,
    [connectionId],
  );
  await ask('delete', '/v1/connections/{id}', operator, { id: connectionId });

  await ask('get', '/v1/audit', reader);
  await ask('get', '/v1/tenants/{id}/audit', admin, { id: 'acme' });
  expect([...answered].toSorted()).toEqual(
    operations.map(({ method, path }) => `${method} ${path}`).toSorted(),
  );
});
