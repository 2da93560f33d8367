import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { post } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { serviceToken } from '../support/tokens.ts';
import { RawConnection, requestText, type RawAnswer } from '../support/wire.ts';

/* What is no request, or none that anybody here takes, is answered like every other error (RFC 9457). */

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

async function say(text: string): Promise<{ answers: RawAnswer[]; connection: RawConnection }> {
  const connection = await RawConnection.open(service.url);
  connection.send(text);
  await connection.until(([first]) => first?.complete, 'an answer');
  return { answers: connection.answers, connection };
}

function expectProblem(answer: RawAnswer | undefined, status: number, code: string): void {
  expect(answer?.status).toBe(status);
  expect(answer?.headers['content-type']).toMatch(/^application\/problem\+json/);
  expect(JSON.parse(answer?.body ?? '')).toMatchObject({
    type: `/docs/errors#${code}`,
    title: expect.any(String),
    status,
    detail: expect.any(String),
    code,
  });
}

const HEAD = `POST /v1/acks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${serviceToken()}\r\nContent-Type: application/json\r\n`;

describe('what is no HTTP', () => {
  test.each([
    ['is not HTTP at all', 'hello\r\n\r\n', 400, 'malformed_request'],
    ['has a method that nobody knows', 'FOO / HTTP/1.1\r\nHost: x\r\n\r\n', 400, 'malformed_request'],
    ['is of a version to come', 'GET / HTTP/3.7\r\nHost: x\r\n\r\n', 400, 'malformed_request'],
    ['has a space in the name of a header', 'GET / HTTP/1.1\r\nA B: c\r\n\r\n', 400, 'malformed_request'],
    ['has a path without a slash', 'GET health HTTP/1.1\r\nHost: x\r\n\r\n', 400, 'malformed_request'],
    ['has two lengths', `${HEAD}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`, 400, 'malformed_request'],
    [
      'has a length and chunks',
      `${HEAD}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`,
      400,
      'malformed_request',
    ],
    [
      'has a chunk without a size',
      `${HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n`,
      400,
      'malformed_request',
    ],
    [
      'has a head that is too large',
      requestText('/health/live', { headers: { x: 'x'.repeat(20_000) } }),
      431,
      'headers_too_large',
    ],
    ['wants a tunnel', 'CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n', 405, 'method_not_allowed'],
    [
      'expects what nobody promises',
      requestText('/health/live', { headers: { expect: 'magic' } }),
      417,
      'expectation_failed',
    ],
  ])('is answered and closed when it %s', async (_what, text, status, code) => {
    const { answers, connection } = await say(text);
    expectProblem(answers[0], status, code);
    expect(answers).toHaveLength(1);
    expect(answers[0]?.headers['connection']).toBe('close');
    await connection.closed;
  });

  test('does not take the place of the answer before it', async () => {
    const { answers, connection } = await say(`${requestText('/health/live')}garbage\r\n\r\n`);
    await connection.closed;
    expect(answers.map(({ status }) => status)).toEqual([200]);
  });

  test.each([
    ['that is made at once', requestText('/health/live'), 200],
    [
      'that the database has a part in',
      requestText('/v1/notifications', {
        token: serviceToken(),
        body: { to: { user: 'alice' }, type: 't', data: 1 },
      }),
      201,
    ],
  ])(
    'but a wish for a tunnel does not take the place of the answer before it, %s',
    async (_, text, status) => {
      const connection = await RawConnection.open(service.url);
      connection.send(text, 'CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n');
      await connection.closed;
      expect(connection.answers).toMatchObject([{ status, complete: true }]);
    },
  );
});

describe('a request that nobody takes', () => {
  test('without a host is refused', async () => {
    const { answers } = await say('GET /health/live HTTP/1.1\r\n\r\n');
    expectProblem(answers[0], 400, 'malformed_request');
    expect(answers[0]?.headers['x-request-id']).toBeDefined();
  });

  test.each(['QUERY', 'PROPFIND', 'TRACE', 'PUT'])(
    'with the method %s is told which others there are',
    async (method) => {
      const { answers } = await say(requestText('/v1/acks', { method }));
      expectProblem(answers[0], 405, 'method_not_allowed');
      expect(answers[0]?.headers['allow']).toBe('POST');
    },
  );

  test.each(['gzip', 'br', 'gzip, identity'])(
    'with a body in %s is told that there is no such encoding',
    async (encoding) => {
      const answer = await post<{ code: string }>(
        `${service.url}/v1/notifications`,
        serviceToken(),
        gzipSync('{"to":{"user":"a"},"type":"t","data":1}'),
        { 'content-encoding': encoding },
      );
      expect(answer).toMatchObject({ status: 415, body: { code: 'unsupported_media_type' } });
      // RFC 9110 § 15.5.16.
      expect(answer.headers.get('accept-encoding')).toBe('identity');
    },
  );
});
