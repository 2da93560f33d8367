import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { SignJWT } from 'jose';
import { startService, type Service } from '../support/app.ts';
import { adminOf, call, KeyIssuer } from '../support/admin.ts';
import { issuerKey, startKeyServer } from '../support/key-server.ts';
import { StreamClient } from '../support/stream-client.ts';
import { userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

const admin = adminOf('ops');

test('a token that waits for its keys while the registration is changed is held against the new one', async () => {
  const key = await issuerKey('ES256', 'k');
  const asked = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  const server = await startKeyServer([key.jwk]);
  server.fault = (_, response) => {
    asked.resolve();
    void released.promise.then(() => response.end(JSON.stringify({ keys: server.keys })));
  };
  const registration = {
    iss: 'https://slow.example',
    jwksUrl: server.url,
    algorithms: ['ES256'],
    audiences: ['tidings'],
    tenant: 'acme',
  };
  const { body } = await call('POST', `${service.url}/v1/issuers`, admin, registration);
  const token = await new SignJWT({ scope: 'history:read' })
    .setProtectedHeader({ alg: 'ES256', kid: 'k' })
    .setIssuer('https://slow.example')
    .setAudience('tidings')
    .setSubject('reader')
    .setIssuedAt()
    .setExpirationTime('5m')
    .sign(key.privateKey);

  const answer = call('GET', `${service.url}/v1/notifications`, token);
  await asked.promise;
  const change = { audiences: ['elsewhere'] };
  expect((await call('PATCH', `${service.url}/v1/issuers/${String(body['id'])}`, admin, change)).status).toBe(
    200,
  );
  released.resolve();
  expect(await answer).toMatchObject({ status: 401, body: { detail: expect.stringContaining('`aud`') } });
  await server.close();
});

test('an issuer that was removed and registered anew between two looks loses the streams of before', async () => {
  const iss = 'https://anew.example';
  const first = new KeyIssuer(iss);
  const register = (issuer: KeyIssuer) =>
    call('POST', `${service.url}/v1/issuers`, admin, issuer.registration({ tenant: 'acme' }));
  const { body } = await register(first);
  const stream = await StreamClient.open(service.url, first.token({ sub: 'alice' }));
  await stream.untilEvent('caught-up');
  // As a node sees it that looks after both.
  await service.database.query(
    `with gone as (update issuers set status = 'deleted', version = version + 1, transaction = pg_current_xact_id()
       where issuer_id = $1 returning *)
     insert into issuers (issuer_id, iss, definition) select gen_random_uuid(), iss, definition from gone`,
    [body['id']],
  );
  expect(await stream.untilEvent('bye')).toMatchObject({ reason: 'revoked' });
  await stream.closed;
});

test('a cookie with the very token of the Authorization header does not make it a request by cookie', async () => {
  const token = userToken();
  const cookie = { cookie: `__Host-tidings=${token}` };
  const ticket = await call('POST', `${service.url}/v1/stream/tickets`, token, {}, cookie);
  expect(ticket.status).toBe(201);
});
