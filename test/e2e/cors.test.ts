import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const EVERYWHERE = 'https://portal.example';
const ACME = 'https://app.acme.example';
const GLOBEX = 'https://app.globex.example';
const NOWHERE = 'https://evil.example';

const lines: string[] = [];

let service: Service;
beforeAll(async () => {
  const logs = { write: (line: string) => void lines.push(line) };
  service = await startService({ CORS_ORIGINS: EVERYWHERE, LOG_LEVEL: 'warn' }, { logs });
  await allow('acme', [ACME]);
  await allow('globex', [GLOBEX]);
});
afterAll(async () => {
  await service.close();
});

/** As an administrator would. */
async function allow(tenant: string, origins: string[]): Promise<void> {
  await service.database.query(
    `insert into tenants (tenant_id, cors_origins) values ($1, $2)
     on conflict (tenant_id) do update set cors_origins = excluded.cors_origins, transaction = pg_current_xact_id()`,
    [tenant, origins],
  );
  await service.app.get(ChangeFeed).now();
}

async function call(path: string, origin: string | undefined, init: RequestInit = {}) {
  const headers = {
    ...(origin === undefined ? {} : { origin }),
    ...(init.headers as Record<string, string>),
  };
  const response = await fetch(`${service.url}${path}`, { ...init, headers });
  await response.text();
  return response;
}

const preflight = (origin: string | undefined, path = '/v1/stream') =>
  call(path, origin, {
    method: 'OPTIONS',
    headers: {
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type',
    },
  });

/** Whether a page of the origin may read the answer, with credentials. */
const isReadable = ({ headers }: Response, origin: string) =>
  headers.get('access-control-allow-origin') === origin &&
  headers.get('access-control-allow-credentials') === 'true';

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const list = (value: string | null) => (value ?? '').split(', ').toSorted();

describe('a preflight', () => {
  // The first in this file, since a line is said once in a while.
  test('that is refused is in the log with its origin, and a hundred of them are not as many lines', async () => {
    await preflight(NOWHERE);
    for (let n = 0; n < 100; n += 1) await preflight(`https://${'x'.repeat(300)}${n}.example`);
    const said = lines.filter((line) => line.includes('CORS_ORIGINS'));
    expect(JSON.parse(said[0] ?? '{}')).toMatchObject({ level: 'warn', origin: NOWHERE, refused: 1 });
    expect(said.length).toBeLessThan(10);
    expect(said.join('')).not.toContain('x'.repeat(201));
  });

  test.each([EVERYWHERE, ACME, GLOBEX])(
    'lets pages of %s ask, since somebody allows them',
    async (origin) => {
      const answer = await preflight(origin);
      expect(answer.status).toBe(204);
      expect(isReadable(answer, origin)).toBe(true);
      expect(list(answer.headers.get('access-control-allow-methods'))).toEqual([
        'DELETE',
        'GET',
        'PATCH',
        'POST',
      ]);
      expect(list(answer.headers.get('access-control-allow-headers'))).toEqual([
        'Authorization',
        'Cache-Control',
        'Content-Type',
        'Idempotency-Key',
        'Last-Event-ID',
        'X-Request-Id',
        'traceparent',
      ]);
      expect(answer.headers.get('vary')).toBe('Origin');
      expect(answer.headers.get('x-request-id')).toMatch(/./);
    },
  );

  const allows = ({ headers }: Response) =>
    [...headers.keys()].filter((name) => name.startsWith('access-control-'));

  test.each([NOWHERE, `${ACME}.evil.example`, 'http://app.acme.example', 'null', '*'])(
    'from %s is refused, and told what is missing',
    async (origin) => {
      const answer = await fetch(`${service.url}/v1/stream`, {
        method: 'OPTIONS',
        headers: { origin, 'access-control-request-method': 'GET' },
      });
      expect(answer.status).toBe(403);
      expect(allows(answer)).toEqual([]);
      expect(answer.headers.get('vary')).toBe('Origin');
      const problem = (await answer.json()) as { code: string; detail: string };
      expect(problem.code).toBe('origin_refused');
      for (const named of [origin, 'CORS_ORIGINS', 'corsOrigins']) expect(problem.detail).toContain(named);
    },
  );

  test('that names no origin is none', async () => {
    const answer = await preflight(undefined);
    expect(answer.status).toBe(405);
    expect(allows(answer)).toEqual([]);
  });

  test('is answered for every path, so that a page may read that there is nothing', async () => {
    expect((await preflight(ACME, '/v1/nothing/here')).status).toBe(204);
    expect(isReadable(await call('/v1/nothing/here', ACME), ACME)).toBe(true);
  });
});

describe('an answer', () => {
  const history = (origin: string | undefined, tenant: string) =>
    call('/v1/notifications', origin, {
      headers: bearer(serviceToken({ tenant, scope: 'history:read' })),
    });

  test("can be read by pages of the caller's tenant and of the installation, and by no others", async () => {
    for (const origin of [ACME, EVERYWHERE]) {
      const answer = await history(origin, 'acme');
      expect(answer.status).toBe(200);
      expect([origin, isReadable(answer, origin)]).toEqual([origin, true]);
      expect(answer.headers.get('access-control-expose-headers')).toContain('X-Request-Id');
    }
    for (const origin of [GLOBEX, NOWHERE]) {
      const answer = await history(origin, 'acme');
      expect(answer.status).toBe(200);
      expect(answer.headers.get('access-control-allow-origin')).toBeNull();
      expect(answer.headers.get('access-control-allow-credentials')).toBeNull();
    }
  });

  test('depends on the origin for every cache, also where there was none', async () => {
    for (const origin of [ACME, NOWHERE, undefined])
      expect((await history(origin, 'acme')).headers.get('vary')).toBe('Origin, Accept');
    expect((await call('/health/live', undefined)).headers.get('vary')).toBe('Origin');
  });

  test('that refuses the caller after it is known is for the same pages', async () => {
    const forbidden = (origin: string) =>
      call('/v1/notifications', origin, { headers: bearer(userToken({ tenant: 'acme' })) });
    expect((await forbidden(ACME)).status).toBe(403);
    expect(isReadable(await forbidden(ACME), ACME)).toBe(true);
    expect((await forbidden(GLOBEX)).headers.get('access-control-allow-origin')).toBeNull();
  });

  test('that refuses a caller who is not known can be read by pages that somebody allows', async () => {
    const unknown = (origin: string) => call('/v1/stream?ticket=spent', origin);
    for (const origin of [ACME, GLOBEX, EVERYWHERE]) {
      const answer = await unknown(origin);
      expect(answer.status).toBe(401);
      expect(isReadable(answer, origin)).toBe(true);
    }
    expect((await unknown(NOWHERE)).headers.get('access-control-allow-origin')).toBeNull();
  });

  test('to a request with a body is confined too', async () => {
    const publish = (origin: string) =>
      call('/v1/notifications', origin, {
        method: 'POST',
        headers: { ...bearer(serviceToken({ tenant: 'acme' })), 'content-type': 'application/json' },
        body: JSON.stringify({ to: { everyone: true }, type: 't', data: 1 }),
      });
    expect(isReadable(await publish(ACME), ACME)).toBe(true);
    const foreign = await publish(GLOBEX);
    expect(foreign.status).toBe(201);
    expect(foreign.headers.get('access-control-allow-origin')).toBeNull();
  });

  test('that is a stream is for the same pages', async () => {
    const open = async (origin: string) => {
      const stream = await StreamClient.open(service.url, userToken({ tenant: 'acme' }), {
        headers: { origin },
      });
      await stream.untilEvent('sync');
      await stream.cut();
      return stream.response.headers;
    };
    const own = await open(ACME);
    expect(own['access-control-allow-origin']).toBe(ACME);
    expect(own['access-control-allow-credentials']).toBe('true');
    expect(own.vary).toBe('Origin');
    for (const origin of [GLOBEX, NOWHERE]) {
      const foreign = await open(origin);
      expect(foreign['access-control-allow-origin']).toBeUndefined();
      expect(foreign['access-control-allow-credentials']).toBeUndefined();
      expect(foreign.vary).toBe('Origin');
    }
  });
});

test('an origin counts from when it is allowed until it is not', async () => {
  const origin = 'https://new.acme.example';
  expect((await preflight(origin)).status).toBe(403);
  await allow('acme', [ACME, origin]);
  expect((await preflight(origin)).status).toBe(204);
  await allow('acme', [ACME]);
  expect((await preflight(origin)).status).toBe(403);
});
