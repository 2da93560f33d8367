import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createParser } from 'eventsource-parser';
import { publish } from '../../support/api.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { expectNothingOf, traces } from './refused.ts';
import { setStage, type Stage } from './stage.ts';

/* What a caller can do with the bytes of a request, on a socket of its own: no client library stands between. */

let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
});
afterAll(async () => {
  await stage.close();
});

interface RawAnswer {
  readonly status: number;
  readonly head: string;
  readonly body: string;
}

/** Sends lines as they are (Latin-1), and reads until the server closes or the stream has caught up. */
async function raw(lines: readonly string[], body = ''): Promise<RawAnswer> {
  const { hostname, port } = new URL(stage.url);
  const socket = connect(Number(port), hostname);
  const text = await new Promise<string>((resolve, reject) => {
    let received = '';
    socket.setTimeout(60_000, () => socket.destroy(new Error('no answer')));
    socket.on('data', (bytes) => {
      received += bytes.toString('latin1');
      if (received.includes('event: caught-up')) socket.destroy();
    });
    socket.on('error', reject).on('close', () => resolve(received));
    socket.write(Buffer.from(`${lines.join('\r\n')}\r\n\r\n${body}`, 'latin1'));
  });
  const [head = '', ...rest] = text.split('\r\n\r\n');
  return { status: Number(head.split(' ')[1]), head, body: rest.join('\r\n\r\n') };
}

const get = (path: string, headers: readonly string[]) =>
  raw([`GET ${path} HTTP/1.1`, 'Host: tidings.example', 'Connection: close', ...headers]);

describe('two `Authorization` headers', () => {
  const good = `Bearer ${userToken()}`;
  const other = `Bearer ${userToken({ user: 'mallory-second' })}`;
  test.each<[string, string[]]>([
    ['that are the same', [`Authorization: ${good}`, `Authorization: ${good}`]],
    ['of two users', [`Authorization: ${good}`, `Authorization: ${other}`]],
    ['in other capitals', [`Authorization: ${good}`, `aUTHORIZATION: ${other}`]],
    ['apart from each other', [`authorization: ${good}`, 'Accept: */*', 'X-A: 1', `AUTHORIZATION: ${other}`]],
    ['of which the first is empty', ['Authorization:', `Authorization: ${good}`]],
    ['of which the second is empty', [`Authorization: ${good}`, 'Authorization:']],
    ['of two schemes', [`Authorization: ${good}`, 'Authorization: Basic bWFsbG9yeQ==']],
    ['of two schemes, ours last', ['Authorization: Basic bWFsbG9yeQ==', `Authorization: ${good}`]],
    ['in one, with a comma', [`Authorization: ${good}, ${other}`]],
    ['in one, with a comma and no space', [`Authorization: ${good},${other.slice('Bearer '.length)}`]],
    ['in one, with a semicolon', [`Authorization: ${good};${other}`]],
    ['in one, with a space', [`Authorization: ${good} ${other}`]],
    ['in one, that names the scheme twice', [`Authorization: Bearer ${good}`]],
  ])('%s are refused', async (_, headers) => {
    const before = await traces(stage.database);
    const mark = stage.log.length;
    for (const path of ['/v1/stream', '/v1/notifications']) {
      const { status, head, body } = await get(path, headers);
      // An empty one in front is a caller who sent no token, which is no error to be told of (RFC 6750 §3).
      expect(status).toBe(401);
      expect(JSON.parse(body)).toMatchObject({ code: expect.stringMatching(/^token_(invalid|missing)$/) });
      for (const header of [good, other]) {
        expectNothingOf(header.slice('Bearer '.length), [head, body, ...stage.log.slice(mark)]);
      }
    }
    expect(await traces(stage.database)).toEqual(before);
  });

  test('are refused although a header of hop-by-hop names one of them', async () => {
    const { status } = await get('/v1/notifications', [
      `Authorization: ${good}`,
      `Authorization: ${other}`,
      'Connection: authorization',
    ]);
    expect(status).toBe(401);
  });

  test('are not made by a line that is folded', async () => {
    const { status } = await get('/v1/notifications', [`Authorization: ${good}`, ` ${other}`]);
    expect([400, 401]).toContain(status);
  });

  test('are not made by a header that another one hides', async () => {
    const { status } = await get('/v1/notifications', [`X-A: 1\nAuthorization: ${good}`]);
    // Whether a bare LF ends a line is the parser's choice; that of a user is no right to this either way.
    expect([400, 401, 403]).toContain(status);
  });
});

describe('a `Last-Event-ID`', () => {
  const authorization = `Authorization: Bearer ${userToken()}`;
  const marker = 'mallory-7c1f9a';
  const injected = `event: bye\ndata: {"reason":"${marker}"}`;

  /** The stream has to begin as if there were no position, and hold nothing of it. */
  function expectReset({ status, head, body }: RawAnswer): void {
    expect(status).toBe(200);
    const events: { event: string | undefined; data: string }[] = [];
    createParser({ onEvent: ({ event, data }) => events.push({ event, data }) }).feed(body);
    expect(events.map(({ event }) => event).filter((event) => event !== undefined)).toEqual([
      'sync',
      'caught-up',
    ]);
    expect(JSON.parse(events[0]?.data ?? '')).toMatchObject({ resume: 'reset' });
    expectQuiet(head + body);
  }

  function expectQuiet(answer: string): void {
    expect(answer).not.toContain(marker);
    for (const line of stage.log) expect(line).not.toContain(marker);
  }

  test.each<[string, string]>([
    ['CR and LF', `1\r\n\r\n${injected}`],
    ['CR', `1\r${injected}`],
    ['LF', `1\n\n${injected}`],
    ['NUL', `1\u0000${marker}`],
  ])('with %s on the wire opens no stream that holds it', async (_, value) => {
    const answer = await get('/v1/stream', [authorization, `Last-Event-ID: ${value}`]);
    // Either the parser refuses it, or the rest is another line and the position is what stands before.
    if (answer.status !== 400) expect(answer.status).toBe(200);
    expectQuiet(answer.head + answer.body);
    expect(answer.body).not.toContain('event: bye');
  });

  test.each<[string, string]>([
    ['CR and LF, encoded', `1%0d%0a%0d%0a${encodeURIComponent(injected)}`],
    ['LF, encoded', `1%0a%0a${encodeURIComponent(injected)}`],
    ['NUL, encoded', `1%00${marker}`],
    ['LF in UTF-8 of two bytes', `1%c0%8a${marker}`],
    ['SQL', encodeURIComponent(`1'; drop table notifications; -- ${marker}`)],
    ['something nested', `1&lastEventId[]=${marker}`.replace('&', '%26')],
  ])('in the query, with %s, is a position that is none', async (_, value) => {
    expectReset(await get(`/v1/stream?lastEventId=${value}`, [authorization]));
  });

  test.each<[string, string]>([
    ['text', marker],
    ['a negative number', '-1'],
    ['a number in full width', '\u00ef\u00bc\u0091'],
    ['a number with an exponent', '1e3'],
    ['hexadecimal', '0x10'],
    ['a number with a sign', '+1'],
    ['a number with zeros before', '0001'],
    ['one past what a number holds', '9007199254740992'],
    ['many digits', '9'.repeat(4_000)],
    ['the end of all positions', '9007199254740991'],
    ['SQL', `1' or '1'='1' -- ${marker}`],
    ['two of them', `1, 2 ${marker}`],
    ['bytes that are no UTF-8', '\u00ff\u00fe\u00c3('],
    ['an escape of a terminal', `\u009b31m${marker}`],
  ])('of %s is a position that is none', async (_, value) => {
    expectReset(await get('/v1/stream', [authorization, `Last-Event-ID: ${value}`]));
  });

  test('that is sent twice is a position that is none', async () => {
    const { position } = await publish(stage.url, serviceToken(), {
      to: { user: 'bob' },
      type: 't',
      data: 1,
    });
    const twice = [`Last-Event-ID: ${position}`, `last-event-id: 0${marker}`];
    expectReset(await get('/v1/stream', [authorization, ...twice]));
  });

  test('of a position that another tenant has is compared with the own head', async () => {
    const { position } = await publish(stage.url, serviceToken({ tenant: 'globex' }), {
      to: { everyone: true },
      type: 't',
      data: 'of globex',
    });
    const stream = await StreamClient.open(stage.url, userToken({ tenant: 'oscorp' }), {
      lastEventId: String(BigInt(position) - 1n),
    });
    await stream.untilEvent('caught-up');
    expect(stream.named('sync')).toMatchObject([{ resume: 'reset' }]);
    expect(stream.raw).not.toContain('of globex');
    await stream.cut();
  });
});

describe('other headers', () => {
  test.each<[string, string[]]>([
    ['an address that a proxy is said to have seen', ['X-Forwarded-For: 10.0.0.1', 'X-Real-IP: 10.0.0.1']],
    ['another method', ['X-HTTP-Method-Override: POST', 'X-Method-Override: DELETE']],
    ['another path', ['X-Original-URL: /v1/tenants', 'X-Rewrite-URL: /metrics']],
    ['another user', ['X-Forwarded-User: alice', 'X-Remote-User: alice', 'Remote-User: alice']],
    ['a token', [`X-Access-Token: ${userToken()}`, `Proxy-Authorization: Bearer ${userToken()}`]],
    ['a header that begins like the right one', [`Authorization-: Bearer ${userToken()}`]],
  ])('with %s stand for nobody', async (_, headers) => {
    const { status, body } = await get('/v1/stream', headers);
    expect({ status, body: JSON.parse(body) as unknown }).toMatchObject({
      status: 401,
      body: { code: 'token_missing' },
    });
  });

  test('a space before the colon does not make a header that only this service knows', async () => {
    const { status } = await get('/v1/stream', [`Authorization : Bearer ${userToken()}`]);
    expect([400, 401]).toContain(status);
  });

  test('a body of two lengths is not read as two requests', async () => {
    const smuggled = `GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${userToken()}\r\n\r\n`;
    const { status, body } = await raw(
      [
        'POST /v1/notifications HTTP/1.1',
        'Host: tidings.example',
        `Authorization: Bearer ${serviceToken()}`,
        'Content-Type: application/json',
        'Content-Length: 2',
        'Transfer-Encoding: chunked',
      ],
      `0\r\n\r\n${smuggled}`,
    );
    expect(status).toBe(400);
    expect(body).not.toContain('event:');
  });
});
