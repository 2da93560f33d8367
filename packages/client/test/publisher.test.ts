import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { startService, type Service } from '../../../test/support/app.ts';
import { CuttingProxy } from '../../../test/support/cutting-proxy.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { serviceToken } from '../../../test/support/tokens.ts';
import { createPublisher, PublishError, type PublisherOptions } from '../src/publisher.ts';
import type { Clock } from '../src/surroundings.ts';

const DEADLINE_MS = 30_000;
const ATTEMPT_MS = 10_000;

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await service.close();
});

/** Of `data` in the log: once for each time that it was stored. */
const stored = async (data: unknown) =>
  await service.database.query<{ id: string; position: string }>(
    'select id, position::text from notifications where data = $1 order by position',
    [JSON.stringify(data)],
  );

let count = 0;
const freshDraft = (changes: object = {}) => ({
  to: { user: 'alice' },
  type: 'order.shipped',
  data: { order: (count += 1) },
  ...changes,
});

/** Stands still, but for what a test says of it. */
class StillClock implements Clock {
  time = Date.UTC(2026, 11, 1);
  readonly timers = new Set<{ readonly ms: number; readonly call: () => void }>();

  now = () => this.time;

  after = (ms: number, call: () => void) => {
    const timer = { ms, call };
    this.timers.add(timer);
    return () => this.timers.delete(timer);
  };

  /** Awaits a timer and has its time come. Returns how long it was for. */
  async pass(isMeant: (ms: number) => boolean): Promise<number> {
    const timer = await eventually(() => {
      const found = [...this.timers].find(({ ms }) => isMeant(ms));
      if (found === undefined) throw new Error('There is no such timer.');
      return found;
    });
    this.timers.delete(timer);
    this.time += timer.ms;
    timer.call();
    return timer.ms;
  }

  /** Awaits what is waited before the next attempt. */
  passWait = () => this.pass((ms) => ms !== DEADLINE_MS && ms !== ATTEMPT_MS);
}

type Fetch = typeof globalThis.fetch;
interface Sent {
  readonly url: string;
  readonly key: string | null;
  readonly token: string | null;
  readonly body: unknown;
}

/** What becomes of an attempt. */
type Fate = Fetch;

const arrives: Fate = (input, init) => fetch(input, init);
/** The service has stored it, and its answer gets lost. */
const losesAnswer: Fate = async (input, init) => {
  await (await fetch(input, init)).text();
  throw new TypeError('fetch failed');
};
const neverArrives: Fate = () => Promise.reject(new TypeError('fetch failed'));
const isSwallowed: Fate = (_input, init) =>
  new Promise((_resolve, reject) => {
    init?.signal?.addEventListener('abort', () => reject(init.signal?.reason));
  });
/** Somebody answers who stands before the service. */
const isAnswered =
  (status: number, headers: Record<string, string> = {}, body = ''): Fate =>
  () =>
    Promise.resolve(new Response(body, { status, headers }));
const isRefused = (status: number, code: string, headers: Record<string, string> = {}): Fate =>
  isAnswered(status, headers, JSON.stringify({ status, code, title: code, detail: 'as it is' }));

let clock: StillClock;
let sent: Sent[];
beforeEach(() => {
  clock = new StillClock();
  sent = [];
});

/** The fate of each attempt in turn. */
function publisherWith(fates: readonly Fate[], options: Partial<PublisherOptions> = {}) {
  return createPublisher({
    url: service.url,
    token: () => serviceToken(),
    deadlineMs: DEADLINE_MS,
    attemptMs: ATTEMPT_MS,
    clock,
    random: () => 0.5,
    fetch: (input, init) => {
      const headers = new Headers(init?.headers);
      const [key, token] = [headers.get('idempotency-key'), headers.get('authorization')];
      sent.push({ url: new Request(input).url, key, token, body: init?.body });
      const fate = fates[sent.length - 1];
      if (fate === undefined) throw new Error('There are more attempts than this test knows of.');
      return fate(input, init);
    },
    ...options,
  });
}

const errorOf = async (call: Promise<unknown>) => {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(PublishError);
  return error as PublishError;
};

/** Every attempt asked for the same. */
function expectSame(attempts: number) {
  expect(sent).toHaveLength(attempts);
  expect(new Set(sent.map(({ url, key, body }) => `${url} ${key} ${String(body)}`)).size).toBe(1);
}

describe('what is stored', () => {
  test('to a user it answers with id, position and time, and has made a key', async () => {
    const draft = freshDraft({ ttlSeconds: 60 });
    const answer = await publisherWith([arrives]).publish(draft);
    expect(answer).toEqual({
      id: expect.any(String),
      position: expect.any(String),
      createdAt: expect.stringMatching(/Z$/),
      replayed: false,
    });
    expect(await stored(draft.data)).toEqual([{ id: answer.id, position: answer.position }]);
    expect(sent[0]?.key).toMatch(/^[\da-f-]{36}$/);
  });

  test('to users it answers with one for each', async () => {
    const draft = freshDraft({ expiresAt: new Date(Date.now() + 3_600_000) });
    const answer = await publisherWith([arrives]).publish({ ...draft, to: { users: ['alice', 'bob'] } });
    expect(answer.notifications.map(({ user }) => user)).toEqual(['alice', 'bob']);
    expect((await stored(draft.data)).map(({ id }) => id)).toEqual(answer.notifications.map(({ id }) => id));
  });

  test('of a batch it answers in its order', async () => {
    const drafts = [freshDraft(), freshDraft({ to: { everyone: true } })];
    const answer = await publisherWith([arrives]).publishBatch(drafts);
    const ids = await Promise.all(drafts.map(async ({ data }) => (await stored(data))[0]?.id));
    expect(answer.notifications.map(({ id }) => id)).toEqual(ids);
  });

  test('a slash at the end of the address does not matter', async () => {
    await publisherWith([arrives], { url: `${service.url}/` }).publish(freshDraft());
    expect(sent[0]?.url).toBe(`${service.url}/v1/notifications`);
  });

  test('a key of the caller is sent, and says that it was used before', async () => {
    const publisher = publisherWith([arrives, arrives]);
    const draft = freshDraft();
    const first = await publisher.publish(draft, { idempotencyKey: 'order-1-shipped' });
    const again = await publisher.publish(draft, { idempotencyKey: 'order-1-shipped' });
    expect(again).toEqual({ ...first, replayed: true });
    expect(await stored(draft.data)).toHaveLength(1);
  });
});

describe('what passes is tried again, and stored once', () => {
  test('an answer that was lost after the commit', async () => {
    const draft = freshDraft();
    const answering = publisherWith([losesAnswer, losesAnswer, arrives]).publish(draft);
    await clock.passWait();
    await clock.passWait();
    const answer = await answering;
    expect(answer.replayed).toBe(true);
    expect(await stored(draft.data)).toEqual([{ id: answer.id, position: answer.position }]);
    expectSame(3);
  });

  test.each(['HTTP/1.1 201', '"position"'])(
    'a connection that broke after %s of the answer',
    async (text) => {
      const proxy = await CuttingProxy.start(service.url);
      try {
        const draft = freshDraft();
        const cut = proxy.cutAfter(text);
        const answering = publisherWith([arrives, arrives], { url: proxy.url }).publish(draft);
        await cut;
        await clock.passWait();
        const answer = await answering;
        expect(answer.replayed).toBe(true);
        expect(await stored(draft.data)).toEqual([{ id: answer.id, position: answer.position }]);
        expectSame(2);
      } finally {
        await proxy.close();
      }
    },
  );

  test('a 201 that a proxy has cut off', async () => {
    const cutOff: Fate = async (input, init) => {
      const answer = await fetch(input, init);
      return new Response((await answer.text()).slice(0, 30), { status: answer.status });
    };
    const draft = freshDraft();
    const answering = publisherWith([cutOff, arrives]).publish(draft);
    await clock.passWait();
    expect(await answering).toMatchObject({ replayed: true });
    expect(await stored(draft.data)).toHaveLength(1);
  });

  test('a batch whose answer was lost', async () => {
    const drafts = [freshDraft(), freshDraft()];
    const answering = publisherWith([losesAnswer, arrives]).publishBatch(drafts);
    await clock.passWait();
    expect(await answering).toMatchObject({ replayed: true });
    for (const { data } of drafts) expect(await stored(data)).toHaveLength(1);
    expectSame(2);
  });

  test('a request that nobody answers', async () => {
    const draft = freshDraft();
    const answering = publisherWith([isSwallowed, arrives]).publish(draft);
    await clock.pass((ms) => ms === ATTEMPT_MS);
    await clock.passWait();
    expect(await answering).toMatchObject({ replayed: false });
    expectSame(2);
  });
});

describe('when it is tried again', () => {
  test('lost connections, 502 and 504: after a random part of a time that doubles', async () => {
    const fates = [
      neverArrives,
      isAnswered(502),
      isAnswered(504),
      neverArrives,
      neverArrives,
      neverArrives,
      neverArrives,
      arrives,
    ];
    const answering = publisherWith(fates).publish(freshDraft());
    const waits: number[] = [];
    while (waits.length < fates.length - 1) waits.push(await clock.passWait());
    expect(waits).toEqual([125, 250, 500, 1_000, 2_000, 4_000, 5_000]);
    await answering;
    expectSame(8);
  });

  test('429 and 503: not before Retry-After, and not all at the same moment', async () => {
    const fates = [
      isRefused(429, 'rate_limited', { 'retry-after': '7' }),
      isRefused(503, 'draining', { 'retry-after': '1' }),
      isAnswered(503, { 'retry-after': new Date(clock.time + 7_125 + 1_250 + 3_000).toUTCString() }),
      isAnswered(503, { 'retry-after': 'soon' }),
      arrives,
    ];
    const answering = publisherWith(fates).publish(freshDraft());
    const waits: number[] = [];
    while (waits.length < fates.length - 1) waits.push(await clock.passWait());
    // A date has no milliseconds.
    expect(waits).toEqual([7_125, 1_250, 2_625 + 500, 1_000]);
    await answering;
    expectSame(5);
  });

  test('what may be tried again only after the deadline fails at once', async () => {
    const error = await errorOf(
      publisherWith([isRefused(429, 'rate_limited', { 'retry-after': '30' })]).publish(freshDraft()),
    );
    expect(error).toMatchObject({ status: 429, code: 'rate_limited', nothingStored: true });
    expect(clock.timers.size).toBe(0);
  });

  test('nothing is tried again once the deadline has passed', async () => {
    const draft = freshDraft();
    const publishing = errorOf(
      publisherWith([losesAnswer, isSwallowed]).publish(draft, { idempotencyKey: 'late' }),
    );
    await clock.passWait();
    await eventually(() => expect(sent).toHaveLength(2));
    await clock.pass((ms) => ms === DEADLINE_MS);
    const error = await publishing;
    expect(error).toMatchObject({ status: undefined, nothingStored: false, idempotencyKey: 'late' });
    expect(error.message).toContain('30000 ms has passed');
    expect(await stored(draft.data)).toHaveLength(1);
    expect(clock.timers.size).toBe(0);
  });

  test('a call has its own deadline where it says so', async () => {
    const publishing = errorOf(publisherWith([isSwallowed]).publish(freshDraft(), { deadlineMs: 77 }));
    await eventually(() => expect(sent).toHaveLength(1));
    await clock.pass((ms) => ms === 77);
    expect(await publishing).toMatchObject({ status: undefined, nothingStored: false });
  });
});

describe('what does not pass is told', () => {
  test('what is wrong with the request', async () => {
    const error = await errorOf(publisherWith([arrives]).publish(freshDraft({ type: 'white space' })));
    expect(error).toMatchObject({ status: 400, code: 'validation_failed', nothingStored: true });
    expect(error.errors.map(({ pointer }) => pointer)).toEqual(['/type']);
    expect(error.message).toContain('400 validation_failed: ');
    expect(error.idempotencyKey).toBe(sent[0]?.key);
    expect(sent).toHaveLength(1);
  });

  test('a key that was used for something else', async () => {
    const publisher = publisherWith([arrives, arrives]);
    await publisher.publish(freshDraft(), { idempotencyKey: 'twice' });
    const other = freshDraft();
    const error = await errorOf(publisher.publish(other, { idempotencyKey: 'twice' }));
    expect(error).toMatchObject({ status: 422, code: 'idempotency_mismatch', nothingStored: true });
    expect(await stored(other.data)).toEqual([]);
    expect(sent).toHaveLength(2);
  });

  test('a right that is missing', async () => {
    const token = () => serviceToken({ scope: 'notifications:publish' });
    const publishing = publisherWith([arrives], { token }).publish(freshDraft({ to: { everyone: true } }));
    expect(await errorOf(publishing)).toMatchObject({ status: 403, code: 'scope_missing' });
  });

  test('the quota of the tenant, in the words of the service', async () => {
    const settings = { NOTIFICATIONS_PER_SECOND: '1', NOTIFICATIONS_BURST_SECONDS: 2 };
    const slow = await startService(settings, { database: service.database });
    try {
      const token = () => serviceToken({ tenant: 'slow' });
      const publisher = publisherWith([arrives, arrives], { url: slow.url, token, deadlineMs: 1 });
      await publisher.publishBatch([freshDraft(), freshDraft()]);
      const error = await errorOf(publisher.publishBatch([freshDraft(), freshDraft()]));
      expect(error).toMatchObject({ status: 429, code: 'rate_limited', nothingStored: true });
    } finally {
      await slow.close();
    }
  });

  test.each([
    ['the service broke', isRefused(500, 'internal')],
    ['a proxy answered with a page', isAnswered(413, {}, '<html>')],
  ])('%s: nobody knows whether it was stored', async (_, fate) => {
    const error = await errorOf(publisherWith([fate]).publish(freshDraft()));
    expect(error.nothingStored).toBe(false);
    expect(sent).toHaveLength(1);
  });

  test('nothing is sent to where a proxy points', async () => {
    const proxy = createServer((request, answer) => {
      answer.writeHead(307, { location: `${service.url}${request.url}` }).end();
    }).listen(0, '127.0.0.1');
    await once(proxy, 'listening');
    try {
      const { port } = proxy.address() as AddressInfo;
      const draft = freshDraft();
      const publisher = publisherWith([arrives], { url: `http://127.0.0.1:${port}` });
      const error = await errorOf(publisher.publish(draft));
      expect(error).toMatchObject({ status: 307, code: undefined, nothingStored: false });
      expect(await stored(draft.data)).toEqual([]);
    } finally {
      proxy.closeAllConnections();
      proxy.close();
    }
  });

  test.each([
    ['the node has too much to do', 'overloaded', true],
    ['the connection to the database was lost', 'database_unavailable', false],
  ])('%s: whether something was stored', async (_, code, nothingStored) => {
    const refused = isRefused(503, code, { 'retry-after': '60' });
    expect(await errorOf(publisherWith([refused]).publish(freshDraft()))).toMatchObject({ nothingStored });
  });

  test('an earlier attempt may have stored what the last one was refused', async () => {
    const draft = freshDraft();
    const publishing = errorOf(
      publisherWith([losesAnswer, isRefused(403, 'tenant_suspended')]).publish(draft),
    );
    await clock.passWait();
    expect(await publishing).toMatchObject({ status: 403, nothingStored: false });
    expect(await stored(draft.data)).toHaveLength(1);
  });

  test('an address that is none is told when the publisher is made', () => {
    expect(() => publisherWith([], { url: 'tidings' })).toThrow(TypeError);
  });

  test('what cannot be sent never is', async () => {
    const publisher = publisherWith([]);
    await expect(publisher.publish(freshDraft({ data: 1n }))).rejects.toThrow(TypeError);
    await expect(publisher.publish(freshDraft(), { idempotencyKey: 'two\nlines' })).rejects.toThrow(
      TypeError,
    );
    expect(sent).toEqual([]);
    expect(clock.timers.size).toBe(0);
  });
});

describe('tokens', () => {
  /** Gives out these in turn, and counts. */
  function tokens(...list: string[]) {
    let asked = 0;
    const token = () => list[asked++] ?? 'none';
    return { token, asked: () => asked };
  }

  test('one serves all calls', async () => {
    const { token, asked } = tokens(serviceToken());
    const publisher = publisherWith([arrives, arrives, arrives], { token });
    await Promise.all([publisher.publish(freshDraft()), publisher.publish(freshDraft())]);
    await publisher.publish(freshDraft());
    expect(asked()).toBe(1);
  });

  test('one that has ended is replaced, and the request stored', async () => {
    const { token, asked } = tokens(serviceToken({ expiresInSeconds: -60 }), serviceToken());
    const draft = freshDraft();
    await publisherWith([arrives, arrives], { token }).publish(draft);
    expect(asked()).toBe(2);
    expect(await stored(draft.data)).toHaveLength(1);
    expect(sent[0]?.token).not.toBe(sent[1]?.token);
    expect(sent[0]?.key).toBe(sent[1]?.key);
  });

  test('a fresh one that is refused, too, ends the call, and the next call asks again', async () => {
    const bad = serviceToken({ expiresInSeconds: -60 });
    const { token, asked } = tokens(bad, bad, serviceToken());
    const publisher = publisherWith([arrives, arrives, arrives], { token });
    const error = await errorOf(publisher.publish(freshDraft()));
    expect(error).toMatchObject({ status: 401, code: 'token_invalid', nothingStored: true });
    await publisher.publish(freshDraft());
    expect(asked()).toBe(3);
  });

  test('what asking for one threw is thrown, and the next call asks again', async () => {
    let asked = 0;
    const token = () => {
      asked += 1;
      if (asked === 1) throw new Error('the provider is away');
      return serviceToken();
    };
    const publisher = publisherWith([arrives], { token });
    await expect(publisher.publish(freshDraft())).rejects.toThrow('the provider is away');
    await publisher.publish(freshDraft());
    expect(asked).toBe(2);
  });

  test('one that never comes is waited for until the deadline, and asked for again by the next call', async () => {
    let asked = 0;
    const token = () => {
      asked += 1;
      return asked === 1 ? new Promise<string>(() => undefined) : serviceToken();
    };
    const publisher = publisherWith([arrives], { token });
    const publishing = errorOf(publisher.publish(freshDraft()));
    await clock.pass((ms) => ms === DEADLINE_MS);
    expect(await publishing).toMatchObject({ status: undefined, nothingStored: true });
    await publisher.publish(freshDraft());
    expect(asked).toBe(2);
  });
});

describe('a signal', () => {
  test('ends the wait', async () => {
    const stopping = new AbortController();
    const publishing = publisherWith([neverArrives]).publish(freshDraft(), { signal: stopping.signal });
    await eventually(() => expect([...clock.timers].map(({ ms }) => ms)).toContain(125));
    stopping.abort(new Error('shutting down'));
    await expect(publishing).rejects.toThrow('shutting down');
    expect(clock.timers.size).toBe(0);
  });

  test('ends an attempt', async () => {
    const stopping = new AbortController();
    // Before any other attempt the deadline would have passed.
    const publishing = publisherWith([isSwallowed]).publish(freshDraft(), {
      signal: stopping.signal,
      deadlineMs: 77,
    });
    await eventually(() => expect(sent).toHaveLength(1));
    const reason = new Error('shutting down');
    stopping.abort(reason);
    await expect(publishing).rejects.toBe(reason);
    expect(sent).toHaveLength(1);
    expect(clock.timers.size).toBe(0);
  });

  test('that was given before lets nothing be sent', async () => {
    const signal = AbortSignal.abort(new Error('shutting down'));
    await expect(publisherWith([]).publish(freshDraft(), { signal })).rejects.toThrow('shutting down');
    expect(sent).toEqual([]);
  });
});

test('types of an app say which data a notification has', async () => {
  const publisher = createPublisher<{ 'order.shipped': { order: number } }>({
    url: service.url,
    token: () => serviceToken(),
  });
  await publisher.publish({ to: { user: 'alice' }, type: 'order.shipped', data: { order: 1 } });
  const wrong = [
    // @ts-expect-error: its data is another
    () => publisher.publish({ to: { user: 'alice' }, type: 'order.shipped', data: { order: 'one' } }),
    // @ts-expect-error: no such type
    () => publisher.publish({ to: { user: 'alice' }, type: 'order.lost', data: { order: 1 } }),
  ];
  expect(wrong).toHaveLength(2);
});
