import { request } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { ChangeFeed } from '../../../src/cluster/change-feed.ts';
import { SERVICE_SCOPES } from '../../../src/core/identifiers.ts';
import { serviceToken, TEST_SECRET, userToken } from '../../support/tokens.ts';
import { expectNothingOf, traces } from './refused.ts';
import { claims, edDsa, HOOLI, hs256, jws, KEYS, KID, setStage, type Stage } from './stage.ts';

/* Cookies of others beside ours (RFC 6265bis §8.6), and pages of others that let the browser send ours (§8.2). */

const OWN_ORIGIN = 'https://app.acme.example';
let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
  for (const [tenant, origin] of [
    ['acme', OWN_ORIGIN],
    ['globex', 'https://app.globex.example'],
  ]) {
    await stage.database.query('insert into tenants (tenant_id, cors_origins) values ($1, array[$2])', [
      tenant,
      origin,
    ]);
  }
  await stage.service.app.get(ChangeFeed).now();
});
afterAll(async () => {
  await stage.close();
});

const alice = userToken({ user: 'alice' });
const mallory = userToken({ user: 'mallory-7c1f9a' });
const NAME = '__Host-tidings';
const SAME_ORIGIN = ['Sec-Fetch-Site', 'same-origin'];

interface Answer {
  readonly status: number | undefined;
  readonly code: string | undefined;
  readonly text: string;
}

/** A request with these headers, name and value in turn, as they are: `fetch` would join or drop some. */
async function send(method: string, path: string, headers: readonly string[], body = ''): Promise<Answer> {
  const { hostname, port } = new URL(stage.url);
  return await new Promise((resolve, reject) => {
    const type = body === '' ? [] : ['Content-Type', 'application/json'];
    const content = method === 'GET' ? [] : [...type, 'Content-Length', String(body.length)];
    const sent = request({
      hostname,
      port,
      path,
      method,
      agent: false,
      headers: ['Host', 'x', ...content, ...headers],
    });
    sent.on('error', reject).on('response', (response) => {
      let text = JSON.stringify(response.rawHeaders);
      const done = () => {
        const json = /\{.*\}$/s.exec(text)?.[0];
        const { code } = (json === undefined ? {} : JSON.parse(json)) as { code?: string };
        resolve({ status: response.statusCode, code, text });
      };
      response.setEncoding('utf8').on('data', (more: string) => {
        text += more;
        // A stream has no end.
        if (response.headers['content-type'] === 'text/event-stream') {
          resolve({ status: response.statusCode, code: undefined, text });
          response.destroy();
        }
      });
      response.on('end', done);
    });
    sent.end(body);
  });
}

async function expectNobody(headers: readonly string[], status: number, code: string): Promise<void> {
  const before = await traces(stage.database);
  const mark = stage.log.length;
  const answers: Answer[] = [];
  for (const { method, path, body } of stage.doors)
    // What takes a body is looked at by two parts of the service: before a body is read, and without one.
    for (const sent of new Set([body ?? '', ''])) answers.push(await send(method, path, headers, sent));
  for (const answer of answers) expect(answer).toMatchObject({ status, code });
  expect(await traces(stage.database)).toEqual(before);
  const places = [...answers.map(({ text }) => text), ...stage.log.slice(mark)];
  for (const token of [alice, mallory]) {
    // That of alice is good: the log may name her where her token was understood.
    if (token === alice) for (const place of places) expect(place).not.toContain(token);
    else expectNothingOf(token, places);
  }
}

/** Whose ticket a request gets: whom the service takes the caller for. */
async function callerOf(headers: readonly string[]): Promise<string | undefined> {
  await stage.database.query('delete from stream_tickets');
  expect(await send('POST', '/v1/stream/tickets', headers, '{}')).toMatchObject({ status: 201 });
  const [row] = await stage.database.query<{ principal: string }>('select principal from stream_tickets');
  return (JSON.parse(row?.principal ?? '{}') as { subject?: string }).subject;
}

test('the cookie of a page of this host is taken', async () => {
  expect(await callerOf(['Cookie', `${NAME}=${alice}`, ...SAME_ORIGIN])).toBe('alice');
  expect(await callerOf(['Cookie', `${NAME}=${alice}`, 'Origin', OWN_ORIGIN])).toBe('alice');
});

describe('two session cookies', () => {
  test.each<[string, string[]]>([
    ['of two users', ['Cookie', `${NAME}=${alice}; ${NAME}=${mallory}`]],
    ['of two users, the other one first', ['Cookie', `${NAME}=${mallory}; ${NAME}=${alice}`]],
    ['that are the same', ['Cookie', `${NAME}=${alice}; ${NAME}=${alice}`]],
    ['in two headers', ['Cookie', `${NAME}=${alice}`, 'Cookie', `${NAME}=${mallory}`]],
    ['in two headers, in other capitals', ['cookie', `${NAME}=${alice}`, 'COOKIE', `${NAME}=${mallory}`]],
    ['of which the first is empty', ['Cookie', `${NAME}=; ${NAME}=${alice}`]],
    ['of which the second is empty', ['Cookie', `${NAME}=${alice}; ${NAME}=`]],
    ['far apart', ['Cookie', `${NAME}=${alice}; a=1; b=2;${NAME}=${mallory}; c=3`]],
    ['without a space', ['Cookie', `${NAME}=${alice};${NAME}=${mallory}`]],
    ['with a tab', ['Cookie', `${NAME}=${alice};\t${NAME}=${mallory}`]],
  ])('%s are refused', async (_, cookies) => {
    await expectNobody([...cookies, ...SAME_ORIGIN], 401, 'token_invalid');
  });
});

describe('a cookie with another name', () => {
  const names = [
    'tidings',
    '__host-tidings',
    '__HOST-TIDINGS',
    '__Host-Tidings',
    '__Secure-tidings',
    '__Host-tidings2',
    'X__Host-tidings',
    '__Host_tidings',
    '__Host-tidings.x',
    '__Host-tidings ',
    '$__Host-tidings',
    '=__Host-tidings',
    '%5F_Host-tidings',
    '__Host%2Dtidings',
    '"__Host-tidings"',
    'a,__Host-tidings',
  ];
  test.each(names)('(%j) is none', async (name) => {
    await expectNobody(['Cookie', `${name}=${mallory}`, ...SAME_ORIGIN], 401, 'token_missing');
  });

  test.each(names)('(%j) does not come before the right one', async (name) => {
    for (const line of [`${name}=${mallory}; ${NAME}=${alice}`, `${NAME}=${alice}; ${name}=${mallory}`]) {
      expect(await callerOf(['Cookie', line, ...SAME_ORIGIN])).toBe('alice');
    }
  });

  test('is not made by a value that looks like one', async () => {
    for (const line of [`a=b,${NAME}=${mallory}`, `a="b ${NAME}=${mallory}"`, `a=${NAME}=${mallory}`]) {
      await expectNobody(['Cookie', line, ...SAME_ORIGIN], 401, 'token_missing');
    }
  });
});

describe('a session cookie with a value that is no token', () => {
  const edwards = () => jws({ alg: 'EdDSA', kid: KID }, claims(HOOLI), edDsa(KEYS.hooli.privateKey));
  const secret = () => jws({ alg: 'HS256' }, claims('tidings', { tenant_id: 'acme' }), hs256(TEST_SECRET));
  const values: [string, (token: string) => string][] = [
    ['in quotes', (token) => `"${token}"`],
    ['with a quote behind', (token) => `${token}"`],
    ['with a quote before', (token) => `"${token}`],
    ['with an escape', (token) => token.replace('.', '%2E')],
    ['with its scheme', (token) => `Bearer ${token}`],
    ['with a comma', (token) => `${token},x`],
    ['with padding', (token) => `${token}=`],
    ['with a tilde', (token) => `${token}~`],
    ['with bytes beyond ASCII', (token) => `${token}\u00e9`],
    ['with a fourth part', (token) => `${token}.x`],
    ['without a signature', (token) => token.slice(0, token.lastIndexOf('.') + 1)],
    ['of nothing', () => ''],
    ['of words', () => 'mallory'],
    ['of 12 KiB', () => `${'A'.repeat(4_000)}.${'A'.repeat(4_000)}.${'A'.repeat(4_000)}`],
  ];
  test.each(values)('(%s) is refused', async (_, change) => {
    for (const token of [secret(), edwards()]) {
      await expectNobody(['Cookie', `${NAME}=${change(token)}`, ...SAME_ORIGIN], 401, 'token_invalid');
    }
  });
});

describe('a cookie and something else', () => {
  test.each<[string, string]>([
    ['a token of another user', mallory],
    ['a token of another tenant', userToken({ tenant: 'globex' })],
    ['a token of a service', serviceToken()],
  ])('are refused when they are of two callers: %s', async (_, token) => {
    const headers = ['Cookie', `${NAME}=${alice}`, 'Authorization', `Bearer ${token}`, ...SAME_ORIGIN];
    await expectNobody(headers, 401, 'credentials_conflict');
  });

  test('are refused when the token is bad, though the cookie is good', async () => {
    const headers = ['Cookie', `${NAME}=${alice}`, 'Authorization', 'Bearer mallory.x.y', ...SAME_ORIGIN];
    await expectNobody(headers, 401, 'token_invalid');
  });

  test('a cookie with the token of a service publishes nothing and reads nothing', async () => {
    const scope = SERVICE_SCOPES.join(' ');
    const headers = ['Cookie', `${NAME}=${serviceToken({ scope })}`, ...SAME_ORIGIN];
    const before = await traces(stage.database);
    for (const [method, path, body] of [
      ['POST', '/v1/notifications', '{"to":{"everyone":true},"type":"t","data":1}'],
      ['GET', '/v1/notifications', ''],
      ['GET', '/v1/connections', ''],
      ['POST', '/v1/tenants', '{"id":"of-mallory"}'],
      ['POST', '/v1/revocations', '{"user":"alice"}'],
    ] as const) {
      expect(await send(method, path, headers, body)).toMatchObject({ status: 401, code: 'token_missing' });
    }
    expect(await traces(stage.database)).toEqual(before);
  });
});

describe('a page of another origin', () => {
  const cookie = ['Cookie', `${NAME}=${alice}`];
  test.each<[string, string[]]>([
    ['that says so', ['Origin', 'https://mallory.example', 'Sec-Fetch-Site', 'cross-site']],
    ['of the same site', ['Origin', 'https://evil.acme.example', 'Sec-Fetch-Site', 'same-site']],
    ['of the same site, without an origin', ['Sec-Fetch-Site', 'same-site']],
    ['that another tenant allows', ['Origin', 'https://app.globex.example']],
    ['in a sandbox', ['Origin', 'null']],
    ['in a sandbox of this host', ['Origin', 'null', 'Sec-Fetch-Site', 'cross-site']],
    ['over http', ['Origin', 'http://app.acme.example']],
    ['of another port', ['Origin', `${OWN_ORIGIN}:8443`]],
    ['with a slash behind', ['Origin', `${OWN_ORIGIN}/`]],
    ['with a dot behind', ['Origin', `${OWN_ORIGIN}.`]],
    ['that begins like the right one', ['Origin', `${OWN_ORIGIN}.mallory.example`]],
    ['in capitals', ['Origin', OWN_ORIGIN.toUpperCase()]],
    ['and the right one', ['Origin', `https://mallory.example, ${OWN_ORIGIN}`]],
    ['and the right one, in two headers', ['Origin', 'https://mallory.example', 'Origin', OWN_ORIGIN]],
    ['that opens a link', ['Sec-Fetch-Site', 'none']],
    ['that says nothing', []],
    ['with an empty origin', ['Origin', '']],
    ['in a header of its own making', ['Sec-Fetch-Site', 'Same-Origin']],
    ['in two headers of its own making', ['Sec-Fetch-Site', 'cross-site', 'Sec-Fetch-Site', 'same-origin']],
    ['by its address', ['Referer', `${OWN_ORIGIN}/`]],
    ['by a header for proxies', ['X-Forwarded-Host', 'app.acme.example', 'X-Forwarded-Proto', 'https']],
  ])('(%s) does not use the cookie', async (_, headers) => {
    await expectNobody([...cookie, ...headers], 403, 'origin_refused');
  });
});
