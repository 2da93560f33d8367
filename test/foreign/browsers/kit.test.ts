import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { ChangeFeed } from '../../../src/cluster/change-feed.ts';
import { get, post, publish, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { describeInBrowsers, type Browser, type Page } from '../../support/browser.ts';
import { CuttingProxy } from '../../support/cutting-proxy.ts';
import { eventually } from '../../support/eventually.ts';
import { kitPage } from '../../support/kit-page.ts';
import { NO_LIMITS } from '../../../src/core/limits.ts';
import { setTenant } from '../../support/acts.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { SameOriginProxy } from '../../support/same-origin-proxy.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

/* `hold` in what comes keeps the page busy with it. */
const PAGE = `
window.got = [];
window.statuses = [];
window.announced = [];
window.errors = [];
window.tidings = kit.createTidings({ url: '', user: 'alice', token: () => undefined });
tidings.on('notification', ({ id, data }, { announce }) => {
  got.push(id);
  if (announce) announced.push(id);
  return data.hold ? new Promise(() => {}) : undefined;
});
window.gaps = [];
tidings.on('gap', (gap) => gaps.push(gap));
tidings.on('status', (status) => statuses.push(status));
tidings.counts.subscribe(() => {});
window.inbox = tidings.inbox();
inbox.subscribe(() => {});
window.badge = () => tidings.counts.getSnapshot();
window.list = () => inbox.getSnapshot().items.map(({ id, readAt }) => [id, readAt !== null]);
tidings.on('error', (error) => errors.push(String(error)));
tidings.start();`;

/* From another origin than the service's, with tokens of its own. `streams` are the addresses that it asked for. */
const CROSSING_PAGE = `
window.streams = [];
const direct = window.fetch;
window.fetch = (address, ...rest) => {
  if (String(address).includes('/v1/stream?')) streams.push(String(address));
  return direct(address, ...rest);
};
window.got = [];
window.signedOut = [];
window.tokens = 0;
const login = new URLSearchParams(location.search).get('login') ?? 'alice';
const { service } = await (await fetch('/login-' + login)).json();
window.tidings = kit.createTidings({
  url: service,
  user: login,
  transport: new URLSearchParams(location.search).get('transport') ?? 'fetch',
  token: async () => {
    tokens += 1;
    const { token } = await (await fetch('/login-' + login)).json();
    if (token === undefined) throw new kit.SignedOut();
    return token;
  },
});
tidings.on('notification', ({ id }) => void got.push(id));
tidings.counts.subscribe(() => {});
window.badge = () => tidings.counts.getSnapshot();
tidings.on('signed-out', (reason) => signedOut.push(reason));
tidings.start();`;

/** A stream counts as dead after three heartbeats: more than a machine stands still. */
const SETTINGS = { HEARTBEAT_SECONDS: '5', STREAM_RETRY_MS: 100 };
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
  let pages: Page[];
  let user: string;
  let users = 0;
  beforeEach(async () => {
    user = `kit-user-${(users += 1)}`;
    pages = [];
    proxy = await SameOriginProxy.start(service.url, userToken({ user }), kitPage(PAGE));
  });
  afterEach(async () => {
    for (const page of pages) await page.close();
    await proxy.close();
  });

  async function open(): Promise<Page> {
    const page = await browser.open(proxy.url);
    pages.push(page);
    return page;
  }
  const close = async (page: Page): Promise<void> => {
    pages.splice(pages.indexOf(page), 1);
    await page.close();
  };
  const send = (data = {}): Promise<StoredAnswer> =>
    publish(service.url, serviceToken(), { to: { user }, type: 't', data });
  const isLive = (page: Page): Promise<void> =>
    eventually(async () => expect(await page.evaluate('tidings.status')).toBe('live'), PATIENCE);
  const expectGot = (page: Page, sent: readonly StoredAnswer[]): Promise<void> =>
    eventually(
      async () => expect(await page.evaluate('window.got')).toEqual(sent.map(({ id }) => id)),
      PATIENCE,
    );

  test('eight tabs have one stream, each hears all, and one of them shows it', async () => {
    const tabs: Page[] = [];
    for (let n = 0; n < 8; n += 1) tabs.push(await open());
    for (const tab of tabs) await isLive(tab);
    const sent = [await send(), await send()];
    for (const tab of tabs) await expectGot(tab, sent);
    expect(proxy.streams).toHaveLength(1);
    const announced: string[] = [];
    for (const tab of tabs) announced.push(...(await tab.evaluate<string[]>('window.announced')));
    expect(announced.toSorted()).toEqual(sent.map(({ id }) => id).toSorted());
    for (const tab of tabs) expect(await tab.evaluate('window.errors')).toEqual([]);
  });

  test('eight tabs of one device, and another device, show the same number and the same list', async () => {
    const elsewhere = await SameOriginProxy.start(service.url, proxy.token, kitPage(PAGE));
    try {
      const tabs: Page[] = [];
      for (let n = 0; n < 8; n += 1) tabs.push(await open());
      // Another origin is another device.
      const other = await browser.open(elsewhere.url);
      pages.push(other);
      const all = [...tabs, other];
      for (const page of all) await isLive(page);
      const sent = [await send(), await send(), await send()];
      const shows = async (unread: number, read: readonly boolean[]): Promise<void> => {
        const list = sent.map(({ id }, n) => [id, read[n]]).toReversed();
        for (const page of all)
          await eventually(async () => {
            expect(await page.evaluate('badge()')).toMatchObject({ unread });
            expect(await page.evaluate('list()')).toEqual(list);
          }, PATIENCE);
      };
      await shows(3, [false, false, false]);
      await tabs[7]?.evaluate(`inbox.markRead('${sent[1]?.id}')`);
      await shows(2, [false, true, false]);
      await other.evaluate(`inbox.markAllRead()`);
      await shows(0, [true, true, true]);
      await tabs[0]?.evaluate(`inbox.markUnread('${sent[2]?.id}')`);
      await shows(1, [true, true, false]);
      expect(proxy.streams).toHaveLength(1);
      expect(elsewhere.streams).toHaveLength(1);
      for (const page of all) expect(await page.evaluate('window.errors')).toEqual([]);
    } finally {
      for (const page of pages.splice(0)) await page.close();
      await elsewhere.close();
    }
  });

  test('what is marked while the browser is offline is shown at once, and stored once it is back', async () => {
    const tab = await open();
    const other = await open();
    await isLive(tab);
    await isLive(other);
    const sent = [await send(), await send()];
    await expectGot(other, sent);
    proxy.status = 502;
    proxy.cut();
    await other.evaluate(`inbox.markRead('${sent[0]?.id}')`);
    for (const page of [tab, other])
      await eventually(
        async () => expect(await page.evaluate('badge()')).toMatchObject({ unread: 1 }),
        PATIENCE,
      );
    await close(other);
    await tab.reload();
    await eventually(async () => expect(await tab.evaluate('tidings.status')).toBe('offline'), PATIENCE);
    proxy.status = undefined;
    await isLive(tab);
    await eventually(async () => {
      const url = `${service.url}/v1/inbox/counts`;
      expect((await get<{ unread: number }>(url, userToken({ user }))).body.unread).toBe(1);
      expect(await tab.evaluate('badge()')).toMatchObject({ unread: 1 });
    }, PATIENCE);
  });

  test('when the tab with the stream is closed, another goes on where it was', async () => {
    const first = await open();
    await isLive(first);
    const second = await open();
    await isLive(second);
    const before = await send();
    await expectGot(second, [before]);
    await close(first);
    const after = await send();
    await expectGot(second, [before, after]);
    await isLive(second);
    expect(proxy.streams).toHaveLength(2);
    expect(proxy.streams.at(-1)?.query.get('lastEventId')).toBe(before.position);
  });

  test('after a cut nothing is missing, and nothing comes twice', async () => {
    const tab = await open();
    const other = await open();
    await isLive(tab);
    await isLive(other);
    const sent = [await send()];
    await expectGot(other, sent);
    proxy.cut();
    sent.push(await send(), await send());
    for (const page of [tab, other]) await expectGot(page, sent);
  });

  test('answers that end an EventSource for good are no end, and nothing is missing', async () => {
    const tab = await open();
    const sent = [await send()];
    await expectGot(tab, sent);
    proxy.status = 502;
    proxy.cut();
    sent.push(await send(), await send());
    await eventually(
      () => expect(proxy.streams.filter(({ status }) => status === 502).length).toBeGreaterThan(1),
      PATIENCE,
    );
    proxy.status = undefined;
    await expectGot(tab, sent);
    expect(proxy.streams.at(-1)?.query.get('lastEventId')).toBe(sent[0]?.position);
    expect(await tab.evaluate('gaps')).toEqual([]);
  });

  test('a service that is started anew is come back to, and nothing is missing', async () => {
    const node = (name: string): Promise<Service> =>
      startService({ ...SETTINGS, NODE_NAME: name }, { database: service.database });
    const before = await node('before');
    proxy.target = before.url;
    const tabs = [await open(), await open()];
    for (const tab of tabs) await isLive(tab);
    const sent = [await send()];
    for (const tab of tabs) await expectGot(tab, sent);
    await before.close();
    sent.push(await send());
    const after = await node('after');
    try {
      proxy.target = after.url;
      sent.push(await send());
      for (const tab of tabs) {
        await expectGot(tab, sent);
        await isLive(tab);
        expect(await tab.evaluate('badge()')).toMatchObject({ unread: 3 });
        expect(await tab.evaluate('errors')).toEqual([]);
      }
    } finally {
      for (const page of pages.splice(0)) await page.close();
      await after.close();
    }
  });

  test('what a page had not handled comes again after a reload, and what it had is confirmed', async () => {
    const tab = await open();
    await isLive(tab);
    const handled = await send();
    const [held, last] = [await send({ hold: true }), await send()];
    await eventually(async () => expect(await tab.evaluate('got')).toEqual([handled.id, held.id]), PATIENCE);
    const operator = serviceToken({ client: 'operator', scope: 'history:read' });
    const statusOf = async ({ id }: StoredAnswer): Promise<string> =>
      (await get<{ status: string }>(`${service.url}/v1/notifications/${id}`, operator)).body.status;
    await eventually(async () => expect(await statusOf(handled)).toBe('delivered'), PATIENCE);
    for (const other of [held, last]) expect(await statusOf(other)).not.toBe('delivered');
    await tab.reload();
    await eventually(async () => expect(await tab.evaluate('got')).toEqual([held.id]), PATIENCE);
  });

  test('what comes together is confirmed by few requests', async () => {
    const tab = await open();
    await isLive(tab);
    const notifications = Array.from({ length: 20 }, () => ({ to: { user }, type: 't', data: {} }));
    const batch = `${service.url}/v1/notifications/batch`;
    const answer = await post<{ notifications: StoredAnswer[] }>(batch, serviceToken(), { notifications });
    const sent = answer.body.notifications;
    await expectGot(tab, sent);
    await eventually(
      () =>
        expect(proxy.acks.map((body) => (JSON.parse(body) as { upTo: string }).upTo).at(-1)).toBe(
          sent.at(-1)?.position,
        ),
      PATIENCE,
    );
    expect(proxy.acks.length).toBeLessThan(10);
  });

  test('a position that the service does not know begins the log anew', async () => {
    const tab = await open();
    await expectGot(tab, [await send()]);
    await tab.evaluate(`(() => {
      const key = Object.keys(localStorage).find((name) => name.endsWith(':place'));
      const place = JSON.parse(localStorage[key]);
      localStorage[key] = JSON.stringify({ ...place, position: '9007199254740991' });
    })()`);
    await close(tab);
    const after = await open();
    await isLive(after);
    const sent = await send();
    await eventually(async () => expect(await after.evaluate<string[]>('got')).toContain(sent.id), PATIENCE);
    expect(proxy.streams.at(-1)?.text).toContain('"resume":"reset"');
  });

  test('a new page goes on where the last one was', async () => {
    const tab = await open();
    const before = await send();
    await expectGot(tab, [before]);
    await close(tab);
    const missed = await send();
    await expectGot(await open(), [missed]);
  });

  const look = (page: Page): Promise<void> =>
    page.evaluate("void document.dispatchEvent(new Event('visibilitychange'))");

  // It alone lets a test freeze a tab or end its process.
  if (installed.name === 'Chromium') {
    test('a tab that is frozen loses the stream to one that somebody looks at, and follows once it is thawed', async () => {
      const [frozen, seen] = [await open(), await open()];
      await isLive(frozen);
      await isLive(seen);
      await frozen.setFrozen?.(true);
      const sent = [await send()];
      await look(seen);
      await expectGot(seen, sent);
      expect(proxy.streams).toHaveLength(2);
      await frozen.setFrozen?.(false);
      sent.push(await send());
      await expectGot(seen, sent);
      await eventually(
        async () => expect(await frozen.evaluate<string[]>('window.got')).toContain(sent[1]?.id),
        PATIENCE,
      );
      await isLive(frozen);
      expect(proxy.streams).toHaveLength(2);
      expect(proxy.openStreams).toBe(1);
    });

    test('a tab that crashes leaves the stream to another', async () => {
      const [crashed, left] = [await open(), await open()];
      await isLive(crashed);
      await isLive(left);
      const before = await send();
      await expectGot(left, [before]);
      await crashed.crash?.();
      const after = await send();
      await expectGot(left, [before, after]);
    });
  }

  test('a proxy that falls silent is left for a new connection', async () => {
    const [tab, other] = [await open(), await open()];
    await isLive(tab);
    await isLive(other);
    proxy.fallSilent();
    const sent = [await send()];
    for (const page of [tab, other]) await expectGot(page, sent);
    expect(proxy.streams).toHaveLength(2);
  });

  test('who signs out in one tab is signed out in all, and nothing of it is kept but the name of the device', async () => {
    const [tab, other] = [await open(), await open()];
    await isLive(tab);
    await isLive(other);
    await expectGot(other, [await send()]);
    await other.evaluate('tidings.signOut()');
    for (const page of [tab, other])
      await eventually(
        async () => expect(await page.evaluate('tidings.status')).toBe('signed-out'),
        PATIENCE,
      );
    await eventually(() => expect(proxy.openStreams).toBe(0), PATIENCE);
    const kept = await tab.evaluate<string[]>(
      "Object.keys(localStorage).map((key) => key.split(':').at(-1))",
    );
    expect(kept).toEqual(['device']);
  });

  test('a login of another user under the same name begins anew', async () => {
    const tab = await open();
    await isLive(tab);
    await expectGot(tab, [await send()]);
    await close(tab);
    const missed = await send();
    user = `${user}-other`;
    proxy.token = userToken({ user });
    const theirs = [await send()];
    const after = await open();
    await isLive(after);
    theirs.push(await send());
    await eventually(
      async () => expect((await after.evaluate<string[]>('window.got')).at(-1)).toBe(theirs[1]?.id),
      PATIENCE,
    );
    expect(await after.evaluate('window.got')).not.toContain(missed.id);
  });

  test('stays away when newer streams have taken its place, and comes back when it is started again', async () => {
    const [tab, other] = [await open(), await open()];
    await isLive(tab);
    await isLive(other);
    const [first] = proxy.streams;
    const replaced = 'event: bye\ndata: {"reason":"replaced","reconnect":false,"retryAfterMs":100}\n\n';
    proxy.inject(replaced);
    for (const page of [tab, other])
      await eventually(async () => expect(await page.evaluate('tidings.status')).toBe('replaced'), PATIENCE);
    expect(proxy.streams).toEqual([first]);
    await other.evaluate('tidings.start()');
    for (const page of [tab, other]) await isLive(page);
    const sent = [await send()];
    for (const page of [tab, other]) await expectGot(page, sent);
  });

  test('opens its stream again when the browser is back on the network', async () => {
    const tab = await open();
    await isLive(tab);
    const sent = [await send()];
    await expectGot(tab, sent);
    await tab.evaluate("void dispatchEvent(new Event('online'))");
    await eventually(() => expect(proxy.streams).toHaveLength(2), PATIENCE);
    sent.push(await send());
    await expectGot(tab, sent);
  });

  describe('from another origin, with tokens of its own', () => {
    let crossing: Service;
    let cutting: CuttingProxy;
    let logins: number;
    let lifetime: number;
    let isLoggedIn: boolean;
    /** Bob is of another tenant. */
    let tenants: Record<string, string>;
    const answer = (login: string): { type: string; body: string } => ({
      type: 'application/json',
      body: JSON.stringify({
        service: cutting.url,
        token: isLoggedIn
          ? userToken({
              user,
              tenant: tenants[login] ?? '',
              expiresInSeconds: lifetime,
              claims: { jti: `${user}-${(logins += 1)}` },
            })
          : undefined,
      }),
    });
    beforeEach(async () => {
      [logins, lifetime, isLoggedIn] = [0, 3_600, true];
      tenants = { alice: 'acme', bob: 'other' };
      await proxy.close();
      proxy = await SameOriginProxy.start(service.url, '', {
        ...kitPage(CROSSING_PAGE),
        ...Object.fromEntries(['alice', 'bob'].map((login) => [`/login-${login}`, () => answer(login)])),
      });
      const settings = { ...SETTINGS, NODE_NAME: 'crossing', CORS_ORIGINS: proxy.url };
      crossing = await startService(settings, { database: service.database });
      cutting = await CuttingProxy.start(crossing.url);
    });
    afterEach(async () => {
      await cutting.close();
      await crossing.close();
    });
    const cursor = async (): Promise<number | undefined> => {
      const rows = await service.database.query<{ cursor: number }>(
        'select cursor from devices where tenant_id = $1 and user_id = $2',
        ['acme', user],
      );
      return rows[0]?.cursor;
    };

    for (const transport of ['fetch', 'event-source'])
      test(`reads and confirms, and misses nothing when it is cut (${transport})`, async () => {
        const page = await browser.open(`${proxy.url}?transport=${transport}`);
        pages.push(page);
        await isLive(page);
        const sent = [await send()];
        await expectGot(page, sent);
        for (const loss of ['reset', 'close'] as const) {
          cutting.cut(loss);
          sent.push(await send(), await send());
          await expectGot(page, sent);
        }
        await eventually(async () => expect(await cursor()).toBe(Number(sent.at(-1)?.position)), PATIENCE);
        expect((await page.evaluate<string[]>('streams')).join()).not.toContain('eyJ');
      });

    test('two logins of two tenants in one browser, two tabs each, hear and count what is theirs', async () => {
      const openAs = async (login: string): Promise<Page> => {
        const page = await browser.open(`${proxy.url}?login=${login}`);
        pages.push(page);
        return page;
      };
      const alice = [await openAs('alice'), await openAs('alice')];
      const bob = [await openAs('bob'), await openAs('bob')];
      for (const page of [...alice, ...bob]) await isLive(page);
      // They have the same id in both.
      const sendTo = (tenant: string): Promise<StoredAnswer> =>
        publish(service.url, serviceToken({ tenant }), { to: { user }, type: 't', data: {} });
      const [toAlice, toBob] = [[await sendTo('acme')], [await sendTo('other'), await sendTo('other')]];
      cutting.cut('reset');
      toAlice.push(await sendTo('acme'));
      toBob.push(await sendTo('other'));
      for (const [tabs, sent] of [
        [alice, toAlice],
        [bob, toBob],
      ] as const)
        for (const tab of tabs) {
          await expectGot(tab, sent);
          await eventually(
            async () => expect(await tab.evaluate('badge()')).toMatchObject({ unread: sent.length }),
            PATIENCE,
          );
        }
      // Who signs out takes nothing from the other.
      await alice[0]?.evaluate('tidings.signOut()');
      await eventually(
        async () => expect(await alice[1]?.evaluate('tidings.status')).toBe('signed-out'),
        PATIENCE,
      );
      toBob.push(await sendTo('other'));
      for (const tab of bob) await expectGot(tab, toBob);
    });

    test('without room for another stream asks for the number, until there is room', async () => {
      const tenant = `full-${user}`;
      await setTenant(crossing, tenant, { limits: { ...NO_LIMITS, connections: 1 } });
      tenants['alice'] = tenant;
      const first = await StreamClient.open(crossing.url, userToken({ tenant, user: 'first' }));
      const page = await open();
      await eventually(async () => expect(await page.evaluate('tidings.status')).toBe('limited'), PATIENCE);
      await publish(service.url, serviceToken({ tenant }), { to: { user }, type: 't', data: {} });
      await page.evaluate("void dispatchEvent(new Event('online'))");
      await eventually(
        async () => expect(await page.evaluate('badge()')).toMatchObject({ unread: 1 }),
        PATIENCE,
      );
      await first.cut();
      await isLive(page);
      await eventually(async () => expect(await page.evaluate('got')).toHaveLength(1), PATIENCE);
    });

    test('renews its token in place before it ends, without a cut', async () => {
      // It is told at once that this ends, and renews it in the first half of what is left.
      lifetime = 20;
      const page = await open();
      await isLive(page);
      lifetime = 3_600;
      const sent = [await send()];
      await expectGot(page, sent);
      const before = await page.evaluate<number>('streams.length');
      const renewed = () =>
        crossing.database.query(`select from stream_commands where user_id = $1 and kind = 'renew'`, [user]);
      await eventually(async () => expect(await renewed()).toHaveLength(1), PATIENCE);
      expect(await page.evaluate('tokens')).toBe(2);
      sent.push(await send());
      await expectGot(page, sent);
      expect(await page.evaluate('streams.length')).toBe(before);
    });

    test('gets itself a new token when the old one counts no more, and is signed out when there is none', async () => {
      const page = await open();
      await isLive(page);
      const sent = [await send()];
      await expectGot(page, sent);
      const revoke = async (): Promise<void> => {
        await crossing.database.query(
          `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
           values ('acme', gen_random_uuid(), 'token', $1, now() + interval '1 hour')`,
          [`${user}-${logins}`],
        );
        await crossing.app.get(ChangeFeed).now();
      };
      cutting.away = true;
      cutting.cut('reset');
      await revoke();
      cutting.away = false;
      sent.push(await send());
      await expectGot(page, sent);
      isLoggedIn = false;
      cutting.away = true;
      cutting.cut('reset');
      await revoke();
      cutting.away = false;
      await eventually(
        async () => expect(await page.evaluate('signedOut')).toEqual(['signed-out']),
        PATIENCE,
      );
      expect(await page.evaluate('tidings.status')).toBe('signed-out');
    });
  });
});
