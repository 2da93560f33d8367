import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { fetchEventSource } from '@microsoft/fetch-event-source';
import { EventSource } from 'eventsource';
import { createEventSource } from 'eventsource-client';
import { createParser } from 'eventsource-parser';
import { publish, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { CuttingProxy } from '../../support/cutting-proxy.ts';
import { eventually } from '../../support/eventually.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

interface Message {
  /** Empty for a notification. */
  readonly event: string;
  readonly data: string;
  readonly id: string;
}
type Receive = (message: Message) => void;

/** Opens a stream and comes back by its own means. Returns how to stop it. */
type Open = (url: string, token: string, receive: Receive) => () => void;

const NAMED = ['sync', 'caught-up', 'position', 'gap', 'expiring', 'bye'];

const eventsource: Open = (url, token, receive) => {
  const source = new EventSource(url, {
    fetch: (input, init) =>
      fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } }),
  });
  for (const event of ['message', ...NAMED]) {
    source.addEventListener(event, ({ data, lastEventId }: MessageEvent) =>
      receive({ event: event === 'message' ? '' : event, data: String(data), id: lastEventId }),
    );
  }
  return () => source.close();
};

const eventsourceClient: Open = (url, token, receive) => {
  const source = createEventSource({
    url,
    headers: { authorization: `Bearer ${token}` },
    onMessage: ({ event = '', data, id = '' }) => receive({ event, data, id }),
  });
  return () => source.close();
};

/* It treats the end of a stream as its end for good, unless `onclose` throws. */
const microsoft =
  (carriesPosition: boolean): Open =>
  (url, token, receive) => {
    const stop = new AbortController();
    let seen: string | undefined;
    const withPosition: typeof fetch = (input, init) => {
      const headers = new Headers(init?.headers);
      headers.delete('last-event-id');
      if (seen !== undefined) headers.set('last-event-id', seen);
      return fetch(input, { ...init, headers });
    };
    void fetchEventSource(url, {
      headers: { authorization: `Bearer ${token}` },
      signal: stop.signal,
      openWhenHidden: true,
      fetch: carriesPosition ? withPosition : fetch,
      onmessage: ({ event, data, id }) => {
        if (id !== '') seen = id;
        // A comment comes as a message without data.
        if (data !== '') receive({ event, data, id });
      },
      onclose() {
        throw new Error('the stream ended');
      },
    });
    return () => stop.abort();
  };

/* As a script would do it: curl prints, the script remembers the last id and calls curl again. */
const curl: Open = (url, token, receive) => {
  let seen: string | undefined;
  let child: ChildProcess | undefined;
  let pause: NodeJS.Timeout | undefined;
  const run = () => {
    const parser = createParser({
      onEvent: ({ event = '', data, id = '' }) => {
        if (id !== '') seen = id;
        receive({ event, data, id });
      },
    });
    const resume = seen === undefined ? [] : ['--header', `Last-Event-ID: ${seen}`];
    const started = spawn('curl', [
      '--silent',
      '--no-buffer',
      '--header',
      `Authorization: Bearer ${token}`,
      ...resume,
      url,
    ]);
    child = started;
    started.stdout.setEncoding('utf8').on('data', (text: string) => parser.feed(text));
    started.on('close', () => {
      if (child === started) pause = setTimeout(run, 100);
    });
  };
  run();
  return () => {
    const last = child;
    child = undefined;
    clearTimeout(pause);
    last?.kill();
  };
};

const CLIENTS: { name: string; open: Open; losesHalfEvents?: true }[] = [
  { name: 'eventsource', open: eventsource },
  { name: 'eventsource-client', open: eventsourceClient },
  // Takes an id for seen when its line has come, also when the connection is lost before the event is complete.
  { name: 'fetch-event-source', open: microsoft(false), losesHalfEvents: true },
  { name: 'fetch-event-source with a position of its own', open: microsoft(true) },
];
if (spawnSync('curl', ['--version']).status === 0) CLIENTS.push({ name: 'curl', open: curl });
else console.warn('Skipped: there is no curl here to read a stream with.');

let service: Service;
beforeAll(async () => {
  // What fetch-event-source expects of a browser.
  Object.assign(globalThis, {
    window: globalThis,
    document: { hidden: false, addEventListener: () => undefined, removeEventListener: () => undefined },
  });
  service = await startService({ STREAM_RETRY_MS: 100 });
});
afterAll(async () => {
  await service.close();
});

let proxy: CuttingProxy;
let stop: (() => void) | undefined;
let received: Message[];
beforeEach(async () => {
  proxy = await CuttingProxy.start(service.url);
  received = [];
});
afterEach(async () => {
  stop?.();
  await proxy.close();
});

let users = 0;
const newUser = () => `user-${(users += 1)}`;

const notifications = () => received.filter(({ event }) => event === '');
const named = (name: string) => received.filter(({ event }) => event === name);

async function send(user: string, texts: readonly string[]): Promise<StoredAnswer[]> {
  const stored: StoredAnswer[] = [];
  for (const text of texts)
    stored.push(await publish(service.url, serviceToken(), { to: { user }, type: 't', data: { text } }));
  return stored;
}

/** Exactly these have come, in this order and each once: by id of the event and by content. */
async function expectAll(sent: readonly StoredAnswer[]): Promise<void> {
  await eventually(() => expect(notifications().length).toBeGreaterThanOrEqual(sent.length));
  expect(
    notifications().map(({ id, data }) => ({ position: id, id: (JSON.parse(data) as StoredAnswer).id })),
  ).toEqual(sent.map(({ position, id }) => ({ position, id })));
}

describe.each(CLIENTS)('$name', ({ open, losesHalfEvents }) => {
  function listen(user: string, query = ''): void {
    stop = open(`${proxy.url}/v1/stream${query}`, userToken({ user }), (message) => received.push(message));
  }
  const caughtUp = (times = 1) => eventually(() => expect(named('caught-up')).toHaveLength(times));

  test('gets what waited for it and what is published then, in order', async () => {
    const user = newUser();
    const backlog = await send(user, ['one', 'two\nlines', 'three \u2028 👍']);
    listen(user);
    await caughtUp();
    const live = await send(user, ['four', 'five']);
    await expectAll([...backlog, ...live]);
    expect(received.map(({ event }) => event)).toEqual(['sync', '', '', '', 'caught-up', '', '']);
    expect(
      notifications().map(({ data }) => (JSON.parse(data) as { data: { text: string } }).data.text),
    ).toEqual(['one', 'two\nlines', 'three \u2028 👍', 'four', 'five']);
  });

  test.each(['reset', 'close'] as const)(
    'misses nothing when its connection is lost (%s) in mid-stream',
    async (loss) => {
      const user = newUser();
      listen(user);
      await caughtUp();
      const before = await send(user, ['1', '2', '3']);
      await expectAll(before);
      proxy.away = true;
      proxy.cut(loss);
      const meanwhile = await send(user, ['4', '5']);
      proxy.away = false;
      const after = await send(user, ['6']);
      await expectAll([...before, ...meanwhile, ...after]);
      expect(proxy.positions.slice(0, 2)).toEqual([undefined, before.at(-1)?.position]);
    },
  );

  test('misses nothing when its connection is lost before its first notification', async () => {
    const user = newUser();
    // Without the position of `caught-up` it would begin at the newest once more.
    listen(user, '?from=latest');
    await caughtUp();
    proxy.away = true;
    proxy.cut('close');
    const meanwhile = await send(user, ['1', '2']);
    proxy.away = false;
    await expectAll(meanwhile);
    expect(proxy.positions.at(-1)).toBe(named('caught-up')[0]?.id);
    expect(named('sync').map(({ data }) => (JSON.parse(data) as { resume: string }).resume)).toEqual([
      'latest',
      'exact',
    ]);
  });

  if (losesHalfEvents !== true) {
    test('gets an event once and whole when its connection was lost in the midst of it', async () => {
      const user = newUser();
      listen(user);
      await caughtUp();
      const lost = proxy.cutAfter('the first half');
      const sent = await send(user, ['before', 'the first half and the second half', 'after']);
      await lost;
      await expectAll(sent);
      expect(proxy.positions.at(-1)).toBe(sent[0]?.position);
    });
  }
});
