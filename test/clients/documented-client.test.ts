import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { EventSource } from 'eventsource';
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
      open: (address, token) =>
        new EventSource(address, {
          fetch: (input, init) =>
            fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${token()}` } }),
        }),
      storage: {
        getItem: (key) => kept.get(key) ?? null,
        setItem: (key, value) => void kept.set(key, value),
      },
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
