import type { IncomingMessage } from 'node:http';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { SERVICE_SCOPES } from '../../src/core/identifiers.ts';
import { Operations } from '../../src/openapi/document.ts';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { holding } from '../support/privacy.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { RawConnection } from '../support/wire.ts';

/* What a node reads of bodies: how much of one, of all of a caller, and of whom at all. */

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

const LARGEST = 8 * 1024 * 1024;
const headOf = (path: string, token: string, framing: string, method: string) =>
  `${method} ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\n${framing}\r\n\r\n`;

async function begin(
  path: string,
  token: string,
  framing: string,
  body = '',
  method = 'POST',
): Promise<RawConnection> {
  const connection = await RawConnection.open(service.url);
  connection.send(headOf(path, token, framing, method), body);
  return connection;
}

const answered = async (connection: RawConnection) =>
  await connection.until(([first]) => first?.complete === true && first, 'an answer');

describe('a body', () => {
  // By hand, for each has a bound of its own.
  test.each([
    ['/v1/acks', 1_024, userToken()],
    ['/v1/stream/tickets', 1_024, userToken()],
    ['/v1/session', 1_024, userToken()],
    ['/v1/stream/renewals', 16 * 1_024, userToken()],
    ['/v1/revocations', 256 * 1_024, serviceToken({ scope: 'operations:write' })],
  ])('of %s has at most %d bytes, announced or not', async (path, most, token) => {
    const body = JSON.stringify({ x: 'x'.repeat(most) });
    const announced = await post<{ code: string; detail: string }>(`${service.url}${path}`, token, body);
    expect(announced).toMatchObject({ status: 413, body: { code: 'body_too_large' } });
    expect(announced.body.detail).toContain(String(most));
    const connection = await begin(
      path,
      token,
      'Transfer-Encoding: chunked',
      `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
    );
    expect(await answered(connection)).toMatchObject({ status: 413 });
    await connection.closed;
  });

  test('that is too large is refused although nothing of it came', async () => {
    const connection = await begin('/v1/acks', userToken(), 'Content-Length: 8000000');
    expect(await answered(connection)).toMatchObject({ status: 413 });
    await connection.closed;
  });

  test('is not read of whom it is not for, wherever it goes', async () => {
    for (const { method, path, access } of service.app.get(Operations).all) {
      if (method === 'get' || access.kind === 'public') continue;
      const wrong =
        access.kind === 'user'
          ? { code: 'not_for_services', tokens: [serviceToken()] }
          : { code: 'scope_missing', tokens: [userToken(), serviceToken({ scope: scopeBut(access.anyOf) })] };
      for (const token of wrong.tokens) {
        const connection = await begin(path, token, 'Content-Length: 1000', '', method.toUpperCase());
        const { status, body } = await answered(connection);
        expect([method, path, status, JSON.parse(body)]).toMatchObject([
          method,
          path,
          403,
          { code: wrong.code },
        ]);
        connection.socket.destroy();
      }
    }
  });

  const scopeBut = (these: readonly string[]) =>
    SERVICE_SCOPES.filter((scope) => !these.includes(scope)).join(' ');

  test('for a path that is not there is not read', async () => {
    const connection = await begin('/v1/nothing', userToken(), `Content-Length: ${LARGEST}`);
    expect(await answered(connection)).toMatchObject({ status: 404 });
    connection.socket.destroy();
  });
});

const small = { to: { user: 'a' }, type: 't', data: 1 };
const BATCH = '/v1/notifications/batch';

describe('of bodies that a node holds', () => {
  const begun: IncomingMessage[] = [];
  const note = (request: IncomingMessage) => void begun.push(request);
  beforeEach(() => {
    begun.length = 0;
    service.app.getHttpServer().on('request', note);
  });
  afterEach(() => {
    service.app.getHttpServer().off('request', note);
  });
  const untilRead = (bytes: number) =>
    eventually(() =>
      expect(begun.reduce((sum, { socket }) => sum + socket.bytesRead, 0)).toBeGreaterThanOrEqual(bytes),
    );

  test('nobody has more than is left for others, until they are gone', async () => {
    const [greedy, other] = [serviceToken({ client: 'greedy' }), serviceToken({ client: 'other' })];
    const almost = 'x'.repeat(LARGEST - 1);
    const open = await Promise.all(
      Array.from({ length: 5 }, () => begin(BATCH, greedy, `Content-Length: ${LARGEST}`, almost)),
    );
    await untilRead(open.length * almost.length);
    const refused = [
      await begin(BATCH, greedy, `Content-Length: ${LARGEST}`),
      // What is not announced counts when it comes.
      await begin(BATCH, greedy, 'Transfer-Encoding: chunked', `${LARGEST.toString(16)}\r\n${almost}`),
    ];
    for (const connection of refused) {
      const { status, headers, body } = await answered(connection);
      expect([status, headers]).toMatchObject([503, { 'retry-after': '1' }]);
      expect(body).toContain('"code":"overloaded"');
    }
    const large = JSON.stringify(small).padEnd(LARGEST);
    // Of another caller, of its own tenant and of another.
    for (const token of [other, serviceToken({ tenant: 'globex' })])
      expect(await post(`${service.url}/v1/notifications`, token, large)).toMatchObject({ status: 201 });
    await publish(service.url, greedy, small);
    for (const { socket } of [...open, ...refused]) socket.destroy();
    await eventually(async () =>
      expect(await post(`${service.url}/v1/notifications`, greedy, large)).toMatchObject({ status: 201 }),
    );
  });

  test('what was only announced counts nothing', async () => {
    const token = serviceToken({ client: 'promising' });
    const open = await Promise.all(
      Array.from({ length: 40 }, () => begin(BATCH, token, `Content-Length: ${LARGEST}`)),
    );
    await eventually(() => expect(begun.length).toBe(open.length));
    await publish(service.url, token, small);
    for (const { socket, answers } of open) {
      expect(answers.filter(({ complete }) => complete)).toEqual([]);
      socket.destroy();
    }
  });

  test('what came counts until what it asks for is done, also when its client has left', async () => {
    const token = serviceToken({ tenant: 'at-work' });
    await publish(service.url, token, small);
    const release = await holding(
      service.database,
      `select from tenant_logs where tenant_id = 'at-work' for update`,
    );
    begun.length = 0;
    const body = JSON.stringify(small).padEnd(LARGEST);
    for (let i = 0; i < 5; i += 1) {
      const { socket } = await begin('/v1/notifications', token, `Content-Length: ${LARGEST}`, body);
      socket.end();
    }
    await eventually(() => expect(begun.filter(({ complete, closed }) => complete && closed).length).toBe(5));
    // Without shares it would be looked at, and is no publish.
    const more = await post(`${service.url}/v1/notifications`, token, ' '.repeat(LARGEST));
    await release();
    expect(more).toMatchObject({ status: 503, body: { code: 'overloaded' } });
    await eventually(() => publish(service.url, token, small));
  });
});
