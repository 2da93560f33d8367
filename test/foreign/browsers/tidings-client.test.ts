import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { ChangeFeed } from '../../../src/cluster/change-feed.ts';
import { get, post, publish, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { describeInBrowsers, type Browser, type Page } from '../../support/browser.ts';
import { CuttingProxy } from '../../support/cutting-proxy.ts';
import { eventually } from '../../support/eventually.ts';
import { SameOriginProxy, type Route } from '../../support/same-origin-proxy.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { TestClock } from '../../support/test-clock.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

const client = readFileSync(new URL('../../../docs/examples/tidings-client.js', import.meta.url), 'utf8');

/* `hold` keeps the page busy with what it gets. */
const PAGE = `<!doctype html><meta charset="utf-8"><title>Tidings</title><script type="module">
  import { openTidings } from '/tidings-client.js';
  window.got = [];
  window.gaps = [];
  window.ends = [];
  openTidings({
    key: 'alice',
    device: 'laptop',
    onNotification: ({ id, data }) => {
      got.push(id);
      return data.hold ? new Promise(() => {}) : undefined;
    },
    renew: () => fetch('/renew'),
    onGap: (gap) => gaps.push(gap.resume ?? 'gap'),
    onEnd: (reason) => ends.push(reason),
  });
</script>`;

/* From another origin than the service's, with the token in the page. `streams` are the addresses that it asked for. */
const TOKEN_PAGE = `<!doctype html><meta charset="utf-8"><title>Tidings</title><script type="module">
  import { openTidings } from '/tidings-client.js';
  const { service, token } = await (await fetch('/login')).json();
  window.streams = [];
  const direct = window.fetch;
  window.fetch = (address, ...rest) => {
    if (String(address).includes('/v1/stream?')) streams.push(String(address));
    return direct(address, ...rest);
  };
  window.got = [];
  window.ends = [];
  window.renewals = 0;
  openTidings({
    key: 'alice',
    device: 'laptop',
    url: service,
    token,
    renew: async () => {
      renewals += 1;
      return (await (await fetch('/login')).json()).token;
    },
    onNotification: ({ id }) => void got.push(id),
    onEnd: (reason) => ends.push(reason),
  });
</script>`;

const text =
  (type: string, body: string): Route =>
  () => ({ type, body });

const SETTINGS = { HEARTBEAT_SECONDS: '1', STREAM_RETRY_MS: 100 };
const PATIENCE = { every: 50 };

describeInBrowsers((installed) => {
  let service: Service;
  let browser: Browser;
  beforeAll(async () => {
    service = await startService(SETTINGS);
    browser = await installed.start();
  });
  afterAll(async () => {
    await browser.close();
    await service.close();
  });

  let proxy: SameOriginProxy;
  let page: Page;
  let user: string;
  let users = 0;
  let renewals = 0;
  /** Of the tokens that the page gets, in seconds. */
  let lifetime: number;
  beforeEach(async () => {
    lifetime = 3_600;
    users += 1;
    user = `user-${users}`;
    const routes: Record<string, Route> = {
      '/': text('text/html', PAGE),
      '/tidings-client.js': text('text/javascript', client),
      '/renew': () => {
        renewals += 1;
        proxy.token = userToken({ user, expiresInSeconds: lifetime });
        return { type: 'text/plain', body: '' };
      },
    };
    renewals = 0;
    proxy = await SameOriginProxy.start(service.url, userToken({ user }), routes);
  });
  afterEach(async () => {
    await page.close();
    await proxy.close();
  });

  const open = async () => {
    page = await browser.open(proxy.url);
  };
  const send = (data: Record<string, unknown> = {}) =>
    publish(service.url, serviceToken(), { to: { user }, type: 't', data });
  const stored = () => page.evaluate<string | null>("sessionStorage.getItem('alice')");

  /** The page has exactly these, in this order. */
  async function expectGot(sent: readonly StoredAnswer[]): Promise<void> {
    const ids = sent.map(({ id }) => id);
    await eventually(async () => expect(await page.evaluate('window.got')).toEqual(ids), PATIENCE);
  }
  const expectStored = (position: string | undefined) =>
    eventually(async () => expect(await stored()).toBe(position), PATIENCE);

  const expectCursor = (position: string | undefined) =>
    eventually(async () => {
      const devices = await service.database.query<{ cursor: number }>(
        'select cursor from devices where tenant_id = $1 and user_id = $2 and device_id = $3',
        ['acme', user, 'laptop'],
      );
      expect(devices).toEqual([{ cursor: Number(position) }]);
    }, PATIENCE);

  test('comes back after answers that would end an EventSource for good, and misses nothing', async () => {
    await open();
    const sent = [await send()];
    await expectGot(sent);
    proxy.status = 502;
    proxy.cut();
    sent.push(await send(), await send());
    await eventually(
      () => expect(proxy.streams.filter(({ status }) => status === 502).length).toBeGreaterThan(1),
      PATIENCE,
    );
    proxy.status = undefined;
    await expectGot(sent);
    expect(proxy.streams.at(-1)?.query.get('lastEventId')).toBe(sent[0]?.position);
    expect(await page.evaluate('window.gaps')).toEqual([]);
  });

  test('goes on after a reload where the page was', async () => {
    await open();
    const before = [await send(), await send()];
    await expectGot(before);
    await expectStored(before.at(-1)?.position);
    const after = [await send()];
    await expectGot([...before, ...after]);
    await expectStored(after.at(-1)?.position);
    await page.reload();
    const later = [await send()];
    await expectGot(later);
    expect(proxy.streams.at(-1)?.query.get('lastEventId')).toBe(after.at(-1)?.position);
  });

  test('gets after a reload what it had not handled', async () => {
    await open();
    const handled = await send();
    const held = [await send({ hold: true }), await send()];
    await eventually(async () => expect(await page.evaluate('window.got')).toHaveLength(2), PATIENCE);
    expect(await stored()).toBe(handled.position);
    await page.reload();
    await eventually(async () => expect(await page.evaluate('window.got')).toEqual([held[0]?.id]), PATIENCE);
  });

  test('confirms what it has handled, many at once', async () => {
    await open();
    // Twenty that come together, however slow the machine is.
    const notifications = Array.from({ length: 20 }, () => ({ to: { user }, type: 't', data: {} }));
    const batch = `${service.url}/v1/notifications/batch`;
    const answer = await post<{ notifications: StoredAnswer[] }>(batch, serviceToken(), { notifications });
    const sent = answer.body.notifications;
    const last = sent.at(-1)?.position;
    await expectCursor(last);
    const operator = serviceToken({ client: 'operator', scope: 'history:read' });
    const { body } = await get<{ status: string; devices: unknown[] }>(
      `${service.url}/v1/notifications/${sent[0]?.id}`,
      operator,
    );
    expect(body).toMatchObject({
      status: 'delivered',
      devices: [{ user, device: 'laptop', deliveredAt: expect.any(String) }],
    });
    expect(proxy.acks.length).toBeLessThan(10);
    expect(JSON.parse(proxy.acks.at(-1) ?? '')).toEqual({ device: 'laptop', upTo: last });
  });

  test('gets itself a new token before the old one ends', async () => {
    // For the service it does not end by itself: a page that waited for that would wait for ever.
    const clock = new TestClock();
    try {
      proxy.token = userToken({ user, expiresInSeconds: 12 });
      await open();
      const sent = [await send()];
      await expectGot(sent);
      await eventually(() => expect(renewals).toBe(1), PATIENCE);
      await eventually(() => expect(proxy.streams).toHaveLength(2), PATIENCE);
      sent.push(await send());
      await expectGot(sent);
      expect(proxy.streams[1]?.query.get('lastEventId')).toBe(sent[0]?.position);
      for (const stream of proxy.streams) expect(stream.text).not.toContain('token-expired');
    } finally {
      clock.restore();
    }
  });

  test('stays away when it is told to', async () => {
    const farewell = createServer((_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.end(
        'retry: 100\n\nevent: bye\ndata: {"reason":"revoked","reconnect":false,"retryAfterMs":100}\n\n',
      );
    });
    await new Promise<void>((resolve) => farewell.listen(0, '127.0.0.1', resolve));
    try {
      proxy.target = `http://127.0.0.1:${(farewell.address() as AddressInfo).port}`;
      await open();
      await eventually(async () => expect(await page.evaluate('window.ends')).toEqual(['revoked']), PATIENCE);
      expect(proxy.streams).toHaveLength(1);
    } finally {
      farewell.closeAllConnections();
      farewell.close();
    }
  });

  test('opens its stream again when the browser is back on the network', async () => {
    await open();
    const sent = [await send()];
    await expectGot(sent);
    await page.evaluate("dispatchEvent(new Event('online'))");
    await eventually(() => expect(proxy.streams).toHaveLength(2), PATIENCE);
    expect(proxy.streams[1]?.query.get('lastEventId')).toBe(sent[0]?.position);
    sent.push(await send());
    await expectGot(sent);
  });

  test('stops when its session is over, and says so', async () => {
    await open();
    const sent = [await send()];
    await expectGot(sent);
    // The page may renew as often as it wants: it gets the same answer.
    proxy.status = 401;
    proxy.cut();
    await eventually(
      async () => expect(await page.evaluate('window.ends')).toEqual(['signed-out']),
      PATIENCE,
    );
    expect(renewals).toBe(1);
    expect(proxy.streams.map(({ status }) => status)).toEqual([200, 401, 401]);
  });

  test('tells the page when its position cannot be used', async () => {
    await open();
    await expectGot([await send()]);
    await page.evaluate("sessionStorage.setItem('alice', '9007199254740991')");
    await page.reload();
    await eventually(async () => expect(await page.evaluate('window.gaps')).toEqual(['reset']), PATIENCE);
  });

  describe('from another origin with a token of its own', () => {
    let crossing: Service;
    let cutting: CuttingProxy;
    let logins: number;
    const serve = async () => {
      await proxy.close();
      proxy = await SameOriginProxy.start(service.url, '', {
        '/': text('text/html', TOKEN_PAGE),
        '/login': () => ({
          type: 'application/json',
          body: JSON.stringify({
            service: cutting.url,
            token: userToken({
              user,
              expiresInSeconds: lifetime,
              claims: { jti: `${user}-${(logins += 1)}` },
            }),
          }),
        }),
        '/tidings-client.js': text('text/javascript', client),
      });
      const settings = { ...SETTINGS, NODE_NAME: 'crossing', CORS_ORIGINS: proxy.url };
      crossing = await startService(settings, { database: service.database });
      cutting = await CuttingProxy.start(crossing.url);
      await open();
    };
    beforeEach(() => {
      logins = 0;
    });
    afterEach(async () => {
      await cutting.close();
      await crossing.close();
    });

    test('reads and confirms', async () => {
      const sent = [await send()];
      await serve();
      await expectGot(sent);
      await expectCursor(sent[0]?.position);
      expect(proxy.streams).toEqual([]);
    });

    test('opens another stream when its own is lost, and misses nothing', async () => {
      await serve();
      const sent = [await send()];
      await expectGot(sent);
      for (const loss of ['reset', 'close'] as const) {
        cutting.cut(loss);
        sent.push(await send(), await send());
        await expectGot(sent);
      }
      const streams = await page.evaluate<string[]>('streams');
      expect(new URL(streams.at(-1) ?? '').searchParams.get('lastEventId')).toBe(sent[2]?.position);
      expect(streams.join()).not.toContain('eyJ');
      expect(await page.evaluate('window.renewals')).toBe(0);
    });

    test('renews its token in place before it ends, without a cut', async () => {
      const clock = new TestClock();
      try {
        lifetime = 10;
        const first = Date.now() + lifetime * 1_000;
        await serve();
        // Its first token is the one that ends soon, however late the page is loaded.
        await eventually(() => expect(logins).toBe(1), PATIENCE);
        const sent = [await send()];
        lifetime = 3_600;
        await expectGot(sent);
        await eventually(async () => expect(await page.evaluate('window.renewals')).toBe(1), PATIENCE);
        const renewed = () =>
          crossing.database.query(`select from stream_commands where user_id = $1 and kind = 'renew'`, [
            user,
          ]);
        await eventually(async () => expect(await renewed()).toHaveLength(1), PATIENCE);
        await crossing.app.get(ChangeFeed).now();
        clock.set(first);
        const looked = await StreamClient.open(crossing.url, userToken({ user: 'looked' }));
        await looked.until(() => looked.comments.length >= 2, 'two heartbeats');
        await looked.cut();
        sent.push(await send());
        await expectGot(sent);
        expect(await page.evaluate('streams.length')).toBe(1);
      } finally {
        clock.restore();
      }
    });

    test('gets itself a new token when the old one counts no more', async () => {
      await serve();
      const sent = [await send()];
      await expectGot(sent);
      cutting.away = true;
      cutting.cut('reset');
      await crossing.database.query(
        `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
         values ('acme', gen_random_uuid(), 'token', $1, now() + interval '1 hour')`,
        [`${user}-1`],
      );
      await crossing.app.get(ChangeFeed).now();
      cutting.away = false;
      sent.push(await send());
      await expectGot(sent);
      expect(await page.evaluate('window.renewals')).toBe(1);
    });
  });
});
