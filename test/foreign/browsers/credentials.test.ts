import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { publish, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { describeInBrowsers, type Browser, type Page } from '../../support/browser.ts';
import { CuttingProxy } from '../../support/cutting-proxy.ts';
import { eventually } from '../../support/eventually.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

/*
 * Ways to the stream for the EventSource of a browser, which sets no headers: a cookie and a ticket, from pages of this
 * origin and of others. Browsers keep a `__Host-` cookie of plain http on loopback. Another port is another origin of the
 * same site, `localhost` beside 127.0.0.1 is another site.
 */

/** A host with nothing but an empty page. */
async function startHost(): Promise<{ server: Server; port: number }> {
  const server = createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/html' });
    response.end('<!doctype html><title>App</title>');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, port: (server.address() as AddressInfo).port };
}

const PATIENCE = { every: 50 };

describeInBrowsers((installed) => {
  let app: { server: Server; port: number };
  let stranger: { server: Server; port: number };
  let service: Service;
  let browser: Browser;
  const logged: string[] = [];
  beforeAll(async () => {
    [app, stranger] = await Promise.all([startHost(), startHost()]);
    service = await startService(
      {
        CORS_ORIGINS: `http://127.0.0.1:${app.port}, http://localhost:${app.port}`,
        HEARTBEAT_SECONDS: '1',
        STREAM_RETRY_MS: 100,
        LOG_LEVEL: 'info',
      },
      { logs: { write: (line: string) => void logged.push(line) } },
    );
    browser = await installed.start();
  });
  afterAll(async () => {
    await browser.close();
    await service.close();
    for (const { server } of [app, stranger]) {
      server.closeAllConnections();
      server.close();
    }
  });

  let page: Page;
  let user: string;
  let users = 0;
  beforeEach(() => {
    users += 1;
    user = `user-${users}`;
  });
  // Some browsers keep a cookie for all pages of the run, whatever their port.
  afterEach(async () => {
    await page.close();
    await open(own());
    expect((await ask('/v1/session', 'DELETE')).status).toBe(204);
    await page.close();
  });

  const own = (from: Service = service) => `${from.url}/metrics`;
  const listed = () => `http://127.0.0.1:${app.port}/`;
  const unlisted = () => `http://127.0.0.1:${stranger.port}/`;
  const otherSite = () => `http://localhost:${app.port}/`;

  const open = async (url: string) => {
    page = await browser.open(url);
  };
  const send = (text = 'a') =>
    publish(service.url, serviceToken(), { to: { user }, type: 't', data: { text } });

  /** A request of the page: what it is answered, or that it may not know. */
  const ask = (url: string, method: string, token?: string, credentials = 'include') => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const init = JSON.stringify({ method, headers, credentials });
    return page.evaluate<{ status?: number; body?: string }>(
      `fetch('${url}', ${init}).then(async (answer) => ({ status: answer.status, body: await answer.text() }), () => ({}))`,
    );
  };
  const logIn = (at: string) => ask(`${at}/v1/session`, 'POST', userToken({ user }));
  const ticketOf = async (at: string): Promise<string> => {
    const { body } = await ask(`${at}/v1/stream/tickets`, 'POST', userToken({ user }), 'same-origin');
    return (JSON.parse(body ?? '') as { ticket: string }).ticket;
  };

  /** Opens an EventSource of the browser and nothing else. */
  const openSource = (url: string, withCredentials = false) =>
    page.evaluate(`(() => {
      window.got = [];
      window.source = new EventSource('${url}', { withCredentials: ${withCredentials} });
      source.onmessage = ({ data, lastEventId }) => {
        got.push(JSON.parse(data).id);
        window.seen = lastEventId;
      };
    })()`);

  const expectGot = (sent: readonly StoredAnswer[]) =>
    eventually(
      async () => expect(await page.evaluate('window.got')).toEqual(sent.map(({ id }) => id)),
      PATIENCE,
    );
  const expectClosed = () =>
    eventually(async () => expect(await page.evaluate('source.readyState')).toBe(2), PATIENCE);
  /** Statuses of the requests for a stream that were answered with a problem. */
  const refusals = () =>
    logged
      .map((line) => JSON.parse(line) as { route?: string; status?: number })
      .filter(({ route }) => route === '/v1/stream')
      .map(({ status }) => status);
  beforeEach(() => {
    logged.length = 0;
  });

  test('by cookie, a page of this origin reads and confirms until it logs out', async () => {
    const sent = [await send()];
    await open(own());
    expect(await logIn('')).toEqual({ status: 204, body: '' });
    expect(await page.evaluate('document.cookie')).toBe('');
    await openSource('/v1/stream');
    await expectGot(sent);
    sent.push(await send());
    await expectGot(sent);
    const confirmed = await page.evaluate<number>(
      `fetch('/v1/acks', { method: 'POST', headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ upTo: window.seen }) }).then(({ status }) => status)`,
    );
    expect(confirmed).toBe(204);
    expect((await ask('/v1/session', 'DELETE')).status).toBe(204);
    await page.evaluate('source.close()');
    await openSource('/v1/stream');
    await expectClosed();
    expect(refusals()).toEqual([401]);
  });

  test('by cookie, a page of a listed origin reads, and comes back by itself', async () => {
    const proxy = await CuttingProxy.start(service.url);
    try {
      await open(listed());
      expect((await logIn(proxy.url)).status).toBe(204);
      await openSource(`${proxy.url}/v1/stream`, true);
      const sent = [await send()];
      await expectGot(sent);
      proxy.cut('reset');
      sent.push(await send(), await send());
      await expectGot(sent);
      expect(proxy.positions.at(-1)).toBe(sent[0]?.position);
      expect(refusals()).toEqual([]);
    } finally {
      await page.evaluate('source.close()');
      await proxy.close();
    }
  });

  test('by cookie, a page of an unlisted origin gets nothing and does nothing, though the browser sends the cookie', async () => {
    await open(listed());
    expect((await logIn(service.url)).status).toBe(204);
    await page.evaluate(`void location.assign('${unlisted()}')`);
    await eventually(async () => expect(await page.evaluate('location.href')).toBe(unlisted()), PATIENCE);
    await send();
    await openSource(`${service.url}/v1/stream`, true);
    await expectClosed();
    // With no cookie it would be 401.
    expect(refusals()).toEqual([403]);
    expect(await ask(`${service.url}/v1/acks`, 'POST')).toEqual({});
    expect(await ask(`${service.url}/v1/session`, 'POST', userToken({ user: 'mallory' }))).toEqual({});
    expect(await ask(`${service.url}/v1/session`, 'DELETE')).toEqual({});
    expect(await page.evaluate('window.got')).toEqual([]);
    const devices = await service.database.query('select from devices where user_id = $1', [user]);
    expect(devices).toEqual([]);
  });

  test('by cookie, a page of another site reads with COOKIE_SAME_SITE=none, and does not without', async () => {
    const crossing = await startService(
      { CORS_ORIGINS: new URL(otherSite()).origin, COOKIE_SAME_SITE: 'none', NODE_NAME: 'crossing' },
      { database: service.database },
    );
    try {
      await open(otherSite());
      expect((await logIn(service.url)).status).toBe(204);
      await openSource(`${service.url}/v1/stream`, true);
      await expectClosed();
      expect(refusals()).toEqual([401]);
      expect((await logIn(crossing.url)).status).toBe(204);
      const sent = [await send()];
      await openSource(`${crossing.url}/v1/stream`, true);
      await expectGot(sent);
      await page.evaluate('source.close()');
      expect((await ask(`${crossing.url}/v1/session`, 'DELETE')).status).toBe(204);
    } finally {
      await crossing.close();
    }
  });

  test.each([
    ['this origin', () => own()],
    ['a listed origin', () => listed()],
    ['a listed origin of another site', () => otherSite()],
  ])('by ticket, a page of %s reads', async (_, url) => {
    const sent = [await send()];
    await open(url());
    await openSource(`${service.url}/v1/stream?ticket=${await ticketOf(service.url)}`);
    await expectGot(sent);
    sent.push(await send());
    await expectGot(sent);
  });

  test('by ticket, a lost stream is over, and the next ticket and the last position miss nothing', async () => {
    const proxy = await CuttingProxy.start(service.url);
    try {
      await open(listed());
      const ticket = await ticketOf(proxy.url);
      await openSource(`${proxy.url}/v1/stream?ticket=${ticket}`);
      const before = [await send(), await send()];
      await expectGot(before);
      proxy.cut('reset');
      await expectClosed();
      // The browser has asked again with what it had.
      expect(refusals()).toEqual([401]);
      expect(proxy.positions.at(-1)).toBe(before[1]?.position);
      const meanwhile = [await send(), await send()];
      expect(await page.evaluate('window.got')).toHaveLength(2);
      const query = new URLSearchParams({
        ticket: await ticketOf(proxy.url),
        lastEventId: await page.evaluate<string>('window.seen'),
      });
      await openSource(`${proxy.url}/v1/stream?${query.toString()}`);
      await expectGot(meanwhile);
      const after = await send();
      await expectGot([...meanwhile, after]);
    } finally {
      await page.evaluate('source.close()');
      await proxy.close();
    }
  });
});
