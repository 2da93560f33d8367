import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { post, publish, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { describeInBrowsers, type Browser, type Page } from '../../support/browser.ts';
import { eventually } from '../../support/eventually.ts';
import { SameOriginProxy, type StreamOpened } from '../../support/same-origin-proxy.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { HOSTILE_PAYLOADS } from '../../support/webhooks.ts';

/* An EventSource of the browser and `onmessage`, nothing else; `?listen=` names an event to listen for as well. */
const PAGE = `<!doctype html><meta charset="utf-8"><title>Tidings</title><script>
  const query = new URLSearchParams(location.search);
  const notifications = [], named = [];
  const source = new EventSource('/v1/stream' + (query.get('stream') ?? ''));
  source.onmessage = ({ lastEventId, data }) => notifications.push({ position: lastEventId, data });
  if (query.has('listen')) source.addEventListener(query.get('listen'), ({ lastEventId }) => named.push(lastEventId));
</script>`;

interface Seen {
  readonly position: string;
  readonly data: string;
}

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
  beforeEach(async () => {
    users += 1;
    user = `user-${users}`;
    proxy = await SameOriginProxy.start(service.url, userToken({ user }), {
      '/': () => ({ type: 'text/html', body: PAGE }),
    });
  });
  afterEach(async () => {
    await page.close();
    await proxy.close();
  });

  const open = async (query: Record<string, string> = {}) => {
    page = await browser.open(`${proxy.url}/?${new URLSearchParams(query).toString()}`);
  };
  const send = (text: string, to: string = user) =>
    publish(service.url, serviceToken(), { to: { user: to }, type: 't', data: { text } });
  const seen = () => page.evaluate<Seen[]>('notifications');
  const streamThat = (found: (stream: StreamOpened) => boolean) =>
    eventually(() => {
      const stream = proxy.streams.find(found);
      expect(stream).toBeDefined();
      return stream;
    }, PATIENCE);

  /** The page has exactly these, in this order. */
  async function expectSeen(sent: readonly StoredAnswer[]): Promise<void> {
    await eventually(async () => expect((await seen()).length).toBeGreaterThanOrEqual(sent.length), PATIENCE);
    expect(
      (await seen()).map(({ position, data }) => ({ position, id: (JSON.parse(data) as StoredAnswer).id })),
    ).toEqual(sent.map(({ position, id }) => ({ position, id })));
  }

  test('onmessage gets what waited and what is published then, and nothing else', async () => {
    const sent = [await send('one'), await send('two')];
    await open();
    await expectSeen(sent);
    sent.push(await send('three'));
    await expectSeen(sent);
  });

  test('comes back by itself when its connection is lost, and misses nothing', async () => {
    await open();
    const sent = [await send('one')];
    await expectSeen(sent);
    proxy.cut();
    sent.push(await send('two'), await send('three'));
    await expectSeen(sent);
    expect(proxy.streams.map(({ lastEventId }) => lastEventId)).toEqual([undefined, sent[0]?.position]);
  });

  test('misses nothing when its connection is lost before its first notification', async () => {
    // Without the position of `caught-up` it would begin at the newest once more.
    await open({ stream: '?from=latest', listen: 'caught-up' });
    const [position] = await eventually(async () => {
      const positions = await page.evaluate<string[]>('named');
      expect(positions).toHaveLength(1);
      return positions;
    }, PATIENCE);
    proxy.cut();
    const sent = [await send('one'), await send('two')];
    await expectSeen(sent);
    expect(proxy.streams[1]?.lastEventId).toBe(position);
  });

  test('follows the log by `position`, also while nothing is for it and nobody listens for that event', async () => {
    await open();
    await streamThat(({ text }) => text.includes('event: caught-up'));
    const other = await send('for somebody else', `${user}-other`);
    await streamThat(({ text }) => text.includes(`id: ${other.position}\n`));
    proxy.cut();
    await streamThat(({ lastEventId }) => lastEventId === other.position);
    await expectSeen([await send('after')]);
  });

  test('comes back after a `bye` for a limit that passes', async () => {
    const narrow = await startService(
      { ...SETTINGS, NODE_NAME: 'narrow', MAX_CONNECTIONS: '1' },
      { database: service.database },
    );
    try {
      const first = await StreamClient.open(narrow.url, userToken({ user: `${user}-other` }));
      await first.untilEvent('caught-up');
      proxy.target = narrow.url;
      const sent = [await send('one')];
      await open();
      await streamThat(({ text }) => text.includes('"over-limit"'));
      await first.cut();
      await expectSeen(sent);
      expect(await page.evaluate('source.readyState')).toBe(1);
    } finally {
      await narrow.close();
    }
  });

  test('goes on at another node when its own shuts down', async () => {
    const leaving = await startService({ ...SETTINGS, NODE_NAME: 'leaving' }, { database: service.database });
    let left = false;
    const leave = async () => {
      if (!left) await leaving.close();
      left = true;
    };
    try {
      proxy.target = leaving.url;
      await open();
      const sent = [await send('one')];
      await expectSeen(sent);
      proxy.target = service.url;
      await leave();
      expect(proxy.streams[0]?.text).toContain('"shutdown"');
      sent.push(await send('two'));
      await expectSeen(sent);
      expect(proxy.streams.map(({ lastEventId }) => lastEventId)).toEqual([undefined, sent[0]?.position]);
    } finally {
      await leave();
    }
  });

  test('gives the page what the publisher wrote', async () => {
    const items = HOSTILE_PAYLOADS.map(({ sent }) => `{"to":{"user":"${user}"},"type":"t","data":${sent}}`);
    const { status, body } = await post<{ notifications: StoredAnswer[] }>(
      `${service.url}/v1/notifications/batch`,
      serviceToken(),
      `{"notifications":[${items.join(',')}]}`,
    );
    expect(status).toBe(201);
    await open();
    await expectSeen(body.notifications);
    const values = await page.evaluate<string[]>(
      'notifications.map(({ data }) => JSON.stringify(JSON.parse(data).data))',
    );
    expect(values).toEqual(HOSTILE_PAYLOADS.map(({ sent }) => JSON.stringify(JSON.parse(sent))));
    const texts = (await seen()).map(({ data }) => data);
    HOSTILE_PAYLOADS.forEach(({ arrives }, index) =>
      expect(texts[index]).toContain(`"data":${arrives},"createdAt"`),
    );
  });
});
