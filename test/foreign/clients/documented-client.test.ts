import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import ts from 'typescript';
import { NO_LIMITS } from '../../../src/core/limits.ts';
import { setTenant } from '../../support/acts.ts';
import { post, publish } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { CuttingProxy } from '../../support/cutting-proxy.ts';
import { eventually } from '../../support/eventually.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

const CLIENT = '../../../docs/examples/tidings-client.js';

interface Options {
  key?: string;
  device?: string;
  url: string;
  token?: string;
  renew?(): unknown;
  onNotification?(notification: { id: string }): void;
  onInbox?(numbers: { unread: number; unseen: number; exact: boolean }): void;
  onEnd?(reason: string): void;
  storage?: { getItem(key: string): string | null; setItem(key: string, value: string): void };
  silenceMs?: number;
}

/** What this test uses of the client, which is plain JavaScript. */
const { openTidings } = (await import(CLIENT)) as { openTidings: (options: Options) => () => void };

const storageIn = (kept: Map<string, string>) => ({
  getItem: (key: string) => kept.get(key) ?? null,
  setItem: (key: string, value: string) => void kept.set(key, value),
});

/** Ends what a test has opened, also one that failed. */
const stops: (() => void)[] = [];
afterEach(() => {
  for (const stop of stops.splice(0)) stop();
});

const open = (options: Options) => {
  const stop = openTidings({
    key: 'alice',
    device: 'node',
    onNotification: () => undefined,
    storage: storageIn(new Map()),
    ...options,
  });
  stops.push(stop);
  return stop;
};

let service: Service;
let proxy: CuttingProxy;
beforeAll(async () => {
  service = await startService({ STREAM_RETRY_MS: 100, HEARTBEAT_SECONDS: '1' });
  proxy = await CuttingProxy.start(service.url);
});
afterAll(async () => {
  await proxy.close();
  await service.close();
});

test('the documented client compiles under strict TypeScript, and tells pages its types', async () => {
  const file = new URL(CLIENT, import.meta.url).pathname;
  const folder = await mkdtemp(join(tmpdir(), 'tidings-page-'));
  const page = join(folder, 'page.ts');
  await writeFile(
    page,
    `import { openTidings } from ${JSON.stringify(file)};
    const stop: () => void = openTidings({
      key: 'k', device: 'd', onNotification: ({ id }) => id.length, renew: async () => 'token',
      onEnd: (reason) => reason.length,
    });
    stop();
    // @ts-expect-error A key is needed, or the positions of two users would mix.
    openTidings({ device: 'd', onNotification: () => undefined });`,
  );
  const options: ts.CompilerOptions = {
    strict: true,
    allowJs: true,
    checkJs: true,
    noEmit: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'],
    types: [],
  };
  const faults = ts.getPreEmitDiagnostics(ts.createProgram([page, file], options));
  await rm(folder, { recursive: true });
  expect(faults.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '))).toEqual([]);
});

test('the documented client runs in Node with a bearer token, and goes on where it was when it is started anew', async () => {
  const kept = new Map<string, string>();
  const got: string[] = [];
  const start = () =>
    open({
      url: proxy.url,
      token: userToken(),
      onNotification: ({ id }) => void got.push(id),
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

test('the documented client tells what is new: of what comes, of what expires, and of what is read elsewhere', async () => {
  const tenant = 'bell';
  const token = userToken({ tenant });
  const numbers: { unread: number; unseen: number }[] = [];
  const send = (more = {}) =>
    publish(service.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: null, ...more });
  const first = await send();
  open({ url: proxy.url, token, onInbox: (told) => numbers.push(told) });
  const expectTold = (unread: number, unseen: number) =>
    eventually(() => expect(numbers.at(-1)).toEqual({ unread, unseen, exact: true }));
  await expectTold(1, 1);
  const second = await send();
  await send({ inbox: false });
  await expectTold(2, 2);
  await post(`${service.url}/v1/inbox/marks`, token, {
    seenUpTo: second.position,
    items: [{ id: first.id, read: true }],
  });
  await expectTold(1, 0);
  proxy.cut('reset');
  await send({ ttlSeconds: 2 });
  await expectTold(2, 1);
  await expectTold(1, 0);
});

/** How many streams a tenant has had. */
const streamsOf = async (tenant: string) => {
  const [row] = await service.database.query<{ streams: number }>(
    'select count(*)::int as streams from connections where tenant_id = $1',
    [tenant],
  );
  return row?.streams;
};

const cursors = () =>
  service.database.query<{ device_id: string; cursor: number }>(
    'select device_id, cursor from devices where tenant_id = $1 and user_id = $2',
    ['acme', 'alice'],
  );

test('of two tabs of a user who may have one stream, the older one stays away, however often the younger comes back', async () => {
  await setTenant(service, 'one-tab', { limits: { ...NO_LIMITS, connectionsPerUser: 1 } });
  const token = userToken({ tenant: 'one-tab' });
  const send = () =>
    publish(service.url, serviceToken({ tenant: 'one-tab' }), {
      to: { user: 'alice' },
      type: 't',
      data: null,
    });
  const openTab = (url: string) => {
    const got: string[] = [];
    const ends: string[] = [];
    const stop = open({
      device: 'tab',
      url,
      token,
      onNotification: ({ id }) => void got.push(id),
      onEnd: (reason) => void ends.push(reason),
    });
    return { got, ends, stop };
  };
  const older = openTab(service.url);
  const { id } = await send();
  await eventually(() => expect(older.got).toEqual([id]));
  const younger = openTab(proxy.url);
  await eventually(() => expect(older.ends).toEqual(['replaced']));

  for (let n = 0; n < 5; n += 1) {
    proxy.cut('reset');
    await eventually(async () => expect(await streamsOf('one-tab')).toBe(n + 3));
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

describe('when the session is over, the documented client stops and says so', () => {
  const refused = () => userToken({ secret: 'x'.repeat(32) });

  /** Opens a stream with a token that is refused; what the page is told, and how often it is asked for another. */
  async function endOf(renew: (() => unknown) | undefined) {
    const told: string[] = [];
    let asked = 0;
    const asking = renew === undefined ? {} : { renew: () => ((asked += 1), renew()) };
    await new Promise<void>((resolve) =>
      open({
        url: service.url,
        token: refused(),
        ...asking,
        onEnd: (reason) => {
          told.push(reason);
          resolve();
        },
      }),
    );
    return { told, asked };
  }

  test('with no new token to be had', async () => {
    expect(await endOf(undefined)).toEqual({ told: ['signed-out'], asked: 0 });
    expect(await endOf(() => null)).toEqual({ told: ['signed-out'], asked: 1 });
  });

  test('with a new token that is refused, too', async () => {
    expect(await endOf(refused)).toEqual({ told: ['signed-out'], asked: 1 });
  });

  test('and not because the page could not ask for one just then', async () => {
    const complaints = jest.spyOn(console, 'error').mockReturnValue(undefined);
    const got: string[] = [];
    const told: string[] = [];
    let asked = 0;
    const stop = open({
      url: service.url,
      token: refused(),
      renew: () => {
        asked += 1;
        if (asked === 1) throw new Error('the provider is away');
        return userToken({ user: 'late' });
      },
      onNotification: ({ id }) => void got.push(id),
      onEnd: (reason) => void told.push(reason),
    });
    const { id } = await publish(service.url, serviceToken(), {
      to: { user: 'late' },
      type: 't',
      data: null,
    });
    await eventually(() => expect(got).toEqual([id]));
    expect({ told, asked }).toEqual({ told: [], asked: 2 });
    expect(complaints).toHaveBeenCalledTimes(1);
    complaints.mockRestore();
    stop();
  });

  test('and when its tenant was suspended', async () => {
    await setTenant(service, 'asleep', { status: 'suspended' });
    const reason = await new Promise<string>((resolve) =>
      open({ url: service.url, token: userToken({ tenant: 'asleep' }), onEnd: resolve }),
    );
    expect(reason).toBe('tenant_suspended');
  });
});

describe('a connection that is dead, though nobody says so', () => {
  const SYNC =
    'retry: 100\n:\n\nevent: sync\ndata: {"connectionId":"c","device":"node","resume":"exact","from":"7","head":"7"}\n\n';
  const CAUGHT_UP = 'event: caught-up\nid: 7\ndata: {"position":"7"}\n\n';

  test('is given up after a silence, and the next one goes on at the same position', async () => {
    const positions: (string | null)[] = [];
    // Each stream falls silent after its beginning, and stays open.
    const silent = createServer((request, response) => {
      positions.push(new URL(request.url ?? '', 'http://host').searchParams.get('lastEventId'));
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(SYNC + CAUGHT_UP);
    });
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    const stop = open({ url: `http://127.0.0.1:${port}`, token: userToken(), silenceMs: 500 });
    await eventually(() => expect(positions).toContain('7'));
    stop();
    silent.closeAllConnections();
    await new Promise((resolve) => silent.close(resolve));
    expect(positions[0]).toBe('');
  });

  describe('by a clock that stands still', () => {
    /** Each stream that was asked for: what the service sends on it, and whether the client has given it up. */
    let streams: { send(text: string): void; isGivenUp(): boolean }[] = [];
    let refuses = false;
    /** The bodies of acknowledgements; the first of them is one too many. */
    let confirmed: unknown[] = [];
    const network = new EventTarget();
    const settled = () => new Promise((resolve) => setImmediate(resolve));
    const start = () => {
      streams = [];
      confirmed = [];
      jest.useFakeTimers({
        doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask', 'performance', 'Date'],
      });
      jest.spyOn(globalThis, 'fetch').mockImplementation(async (address, init) => {
        if (address === 'http://service.example/v1/acks')
          return new Response(null, { status: confirmed.push(init?.body) === 1 ? 429 : 204 });
        let send = (_text: string): void => undefined;
        const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
          start: (controller) => {
            send = (text) => controller.enqueue(Buffer.from(text));
          },
        });
        streams.push({ send: (text) => send(text), isGivenUp: () => init?.signal?.aborted === true });
        if (refuses) throw new TypeError('fetch failed');
        return new Response(body, { status: 200 });
      });
      Object.assign(globalThis, {
        addEventListener: network.addEventListener.bind(network),
        removeEventListener: network.removeEventListener.bind(network),
      });
      return open({ url: 'http://service.example', token: 'token' });
    };
    afterEach(() => {
      refuses = false;
      jest.useRealTimers();
      jest.restoreAllMocks();
      Object.assign(globalThis, { addEventListener: undefined, removeEventListener: undefined });
    });

    test('is one that brings no heartbeat any more, and none that does', async () => {
      const stop = start();
      await settled();
      const [stream] = streams;
      stream?.send(SYNC);
      for (let beat = 0; beat < 10; beat += 1) {
        await settled();
        jest.advanceTimersByTime(44_000);
        expect(stream?.isGivenUp()).toBe(false);
        stream?.send(':\n\n');
      }
      await settled();
      jest.advanceTimersByTime(45_000);
      expect(stream?.isGivenUp()).toBe(true);
      stop();
    });

    test('is no reason to forget a confirmation, and neither is a refusal that passes', async () => {
      const stop = start();
      await settled();
      streams[0]?.send(`${SYNC}id: 8\ndata: {"id":"n","type":"t","data":null}\n\n`);
      await settled();
      jest.advanceTimersByTime(500);
      await settled();
      expect(confirmed).toHaveLength(1);
      jest.advanceTimersByTime(15_000);
      await settled();
      expect(confirmed).toEqual(Array.from({ length: 2 }, () => '{"device":"node","upTo":"8"}'));
      stop();
    });

    test('is left at once when the network is back, and so is a long wait', async () => {
      refuses = true;
      const stop = start();
      await settled();
      for (const failures of [1, 2, 3]) {
        expect(streams).toHaveLength(failures);
        network.dispatchEvent(new Event('online'));
        await settled();
      }
      refuses = false;
      network.dispatchEvent(new Event('online'));
      await settled();
      expect(streams).toHaveLength(5);
      expect(streams.at(-1)?.isGivenUp()).toBe(false);
      network.dispatchEvent(new Event('online'));
      expect(streams.at(-1)?.isGivenUp()).toBe(true);
      stop();
      network.dispatchEvent(new Event('online'));
      await settled();
      expect(streams).toHaveLength(5);
    });
  });
});
