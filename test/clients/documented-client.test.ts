import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { EventSource } from 'eventsource';
import { NO_LIMITS } from '../../src/limits.ts';
import { setTenant } from '../support/acts.ts';
import { publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { eventually } from '../support/eventually.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const CLIENT = '../../docs/examples/tidings-client.js';

/** What this test uses of the client, which is plain JavaScript. */
interface Client {
  openTidings: (options: {
    key: string;
    device: string;
    url: string;
    token: string;
    onNotification(notification: { id: string }): void;
    onEnd?(reason: string): void;
    open(address: string, token: () => string): EventSource;
    storage: { getItem(key: string): string | null; setItem(key: string, value: string): void };
  }) => () => void;
}

let service: Service;
let proxy: CuttingProxy;
beforeAll(async () => {
  service = await startService({ STREAM_RETRY_MS: '100' });
  proxy = await CuttingProxy.start(service.url);
});
afterAll(async () => {
  await proxy.close();
  await service.close();
});

test('the client that the documentation shows is the one that is tested', () => {
  const shown = readFileSync(new URL('../../docs/client.md', import.meta.url), 'utf8').matchAll(
    /^```js\n(.*?)^```$/gms,
  );
  const client = readFileSync(new URL(CLIENT, import.meta.url), 'utf8');
  expect([...shown].map(([, code]) => code)).toContain(client);
});

/** As a page that holds the token opens its stream; `asked` is told of each time that it asks for it. */
const withBearer = (address: string, token: () => string, asked?: () => void) =>
  new EventSource(address, {
    fetch: (input, init) => {
      asked?.();
      return fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${token()}` } });
    },
  });

const storageIn = (kept: Map<string, string>) => ({
  getItem: (key: string) => kept.get(key) ?? null,
  setItem: (key: string, value: string) => void kept.set(key, value),
});

test('the documented client runs in Node with a bearer token, and goes on where it was when it is started anew', async () => {
  const { openTidings } = (await import(CLIENT)) as Client;
  const kept = new Map<string, string>();
  const got: string[] = [];
  const start = () =>
    openTidings({
      key: 'alice',
      device: 'node',
      url: proxy.url,
      token: userToken(),
      onNotification: ({ id }) => void got.push(id),
      open: withBearer,
      storage: storageIn(kept),
    });
  const send = () => publish(service.url, serviceToken(), { to: { user: 'alice' }, type: 't', data: null });
  const sent = [await send()];
  const expectGot = () => eventually(() => expect(got).toEqual(sent.map(({ id }) => id)));

  let stop = start();
  await expectGot();
  proxy.cut('reset');
  sent.push(await send(), await send());
  await expectGot();
  const last = sent.at(-1)?.position;
  await eventually(async () =>
    expect(await cursors()).toEqual([{ device_id: 'node', cursor: Number(last) }]),
  );
  stop();

  sent.push(await send());
  stop = start();
  await expectGot();
  expect(proxy.requests.filter((head) => head.startsWith('get')).at(-1)).toContain(`lasteventid=${last}`);
  stop();
});

const cursors = () =>
  service.database.query<{ device_id: string; cursor: number }>(
    'select device_id, cursor from devices where tenant_id = $1 and user_id = $2',
    ['acme', 'alice'],
  );

test('of two tabs of a user who may have one stream, the older one stays away, however often the younger comes back', async () => {
  await setTenant(service, 'one-tab', { limits: { ...NO_LIMITS, connectionsPerUser: 1 } });
  const { openTidings } = (await import(CLIENT)) as Client;
  const token = userToken({ tenant: 'one-tab' });
  const send = () =>
    publish(service.url, serviceToken({ tenant: 'one-tab' }), {
      to: { user: 'alice' },
      type: 't',
      data: null,
    });
  const open = (url: string) => {
    const got: string[] = [];
    const ends: string[] = [];
    const tab = { got, ends, streams: 0 };
    const stop = openTidings({
      key: 'alice',
      device: 'tab',
      url,
      token,
      onNotification: ({ id }) => void got.push(id),
      onEnd: (reason) => void ends.push(reason),
      open: (address, bearer) => withBearer(address, bearer, () => (tab.streams += 1)),
      storage: storageIn(new Map()),
    });
    return Object.assign(tab, { stop });
  };
  const older = open(service.url);
  const { id } = await send();
  await eventually(() => expect(older.got).toEqual([id]));
  const younger = open(proxy.url);
  await eventually(() => expect(older.ends).toEqual(['replaced']));

  for (let n = 0; n < 5; n += 1) {
    proxy.cut('reset');
    await eventually(() => expect(younger.streams).toBe(n + 2));
    const { id: next } = await send();
    await eventually(() => expect(younger.got).toContain(next));
  }
  expect(younger.ends).toEqual([]);
  expect(older.got).toEqual([id]);
  await eventually(async () =>
    expect(
      await service.database.query(
        `select count(*)::int as streams, count(*) filter (where reason = 'replaced')::int as replaced
         from connections where tenant_id = 'one-tab' and until is not null`,
      ),
    ).toEqual([{ streams: 6, replaced: 1 }]),
  );
  younger.stop();
});
