import { describe, expect, test } from '@jest/globals';
import { createFakeBrowser, createFakeClock, createFakeService } from '../src/testing.ts';

/* What is wrong on purpose, and what browsers do: the service has nothing of it to be compared with. */

const own = { to: { user: 'alice' }, type: 't', data: 'ü' } as const;

function stage() {
  const clock = createFakeClock();
  const service = createFakeService({ clock });
  const browser = createFakeBrowser({ clock, fetch: service.fetch });
  const token = service.token({ user: 'alice' });
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const acknowledge = (upTo: string, fetch = service.fetch) =>
    fetch('https://t.test/v1/acks', { method: 'POST', headers, body: JSON.stringify({ upTo }) });
  /** What comes of a stream, as text; `<end>` and errors as they come. */
  const read = (query = '', fetch = service.fetch, signal?: AbortSignal) => {
    const got = { text: '', chunks: 0 };
    void (async () => {
      const decoder = new TextDecoder();
      try {
        const answer = await fetch(`https://t.test/v1/stream?${query}`, {
          headers,
          ...(signal ? { signal } : {}),
        });
        for await (const chunk of answer.body ?? []) {
          got.chunks += 1;
          got.text += decoder.decode(chunk, { stream: true });
        }
        got.text += '<end>';
      } catch (error) {
        got.text += `<${error instanceof Error ? error.name : 'unknown'}>`;
      }
    })();
    return got;
  };
  return { clock, service, browser, token, acknowledge, read };
}

const count = (text: string, part: string): number => text.split(part).length - 1;

describe('the clock', () => {
  test('fires timers in their order, and what follows from one before the next', async () => {
    const clock = createFakeClock(0);
    const fired: string[] = [];
    const note = (what: string) => fired.push(`${what}@${clock.now()}`);
    clock.after(20, () => note('late'));
    clock.after(10, () => {
      clock.after(5, () => note('later'));
      void Promise.resolve().then(() => note('promise'));
    });
    clock.after(10, () => note('second'));
    clock.after(1, () => note('never'))();
    await clock.advance(30);
    expect(fired).toEqual(['promise@10', 'second@10', 'later@15', 'late@20']);
    clock.after(1, () => note('slept'));
    await clock.jump(1_000);
    expect(fired.at(-1)).toBe('slept@1030');
  });
});

describe('faults', () => {
  test('cut a stream within an event, and repeat one on the next', async () => {
    const { clock, service, read } = stage();
    const first = read();
    await clock.advance(0);
    const { position } = service.publish(own);
    service.faults.cut({ afterBytes: 9 });
    await clock.advance(0);
    service.publish(own);
    await clock.advance(0);
    expect(first.text).toMatch(/\n\nid: \d{5}<TypeError>$/);
    expect(service.streams()).toEqual([]);
    service.faults.repeat();
    const second = read(`lastEventId=${position}`);
    await clock.advance(0);
    expect(second.text).toContain('"resume":"exact"');
    expect(count(second.text, `id: ${position}\n`)).toBe(1);
    service.faults.cut();
    await clock.advance(0);
    expect(second.text).toMatch(/<TypeError>$/);
  });

  test('tear chunks apart and freeze heartbeats', async () => {
    const { clock, service, read } = stage();
    service.faults.tear = true;
    const stream = read();
    for (let n = 0; n < 20; n += 1) service.publish(own);
    await clock.advance(60_000);
    expect(count(stream.text, '"ü"')).toBe(20);
    expect(stream.chunks).toBeGreaterThan(30);
    const beats = () => stream.text.match(/^:$/gm)?.length;
    // The first is behind the greeting.
    expect(beats()).toBe(4);
    service.faults.heartbeats = false;
    await clock.advance(60_000);
    expect(beats()).toBe(4);
  });

  test('go silent: nothing comes, nothing ends, nothing is answered', async () => {
    const { clock, service, acknowledge, read } = stage();
    const over = new AbortController();
    const stream = read('', service.fetch, over.signal);
    await clock.advance(0);
    const before = stream.text;
    const speak = service.faults.goSilent();
    service.publish(own);
    let answered = false;
    void acknowledge('0').then(() => (answered = true));
    await clock.advance(7_200_000);
    expect(stream.text).toBe(before);
    expect(answered).toBe(false);
    speak();
    expect((await acknowledge('0')).status).toBe(401);
    over.abort();
    await clock.advance(0);
    expect(stream.text).toBe(`${before}<AbortError>`);
  });

  test('refuse, hold and lose answers', async () => {
    const { clock, service, acknowledge, read } = stage();
    read();
    await clock.advance(0);
    const { position } = service.publish(own);
    service.faults.refuse({ problem: 'overloaded', retryAfter: 7 }, { route: 'POST /v1/acks' });
    const refused = await acknowledge(position);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '7']);
    service.faults.refuse('unreachable', { times: 2 });
    await expect(acknowledge(position)).rejects.toThrow(TypeError);
    await expect(acknowledge(position)).rejects.toThrow(TypeError);
    expect(service.acknowledged('default')).toBeUndefined();
    const later = service.faults.hold({ done: false });
    const waiting = acknowledge(position);
    await clock.advance(0);
    expect([later.waiting, service.acknowledged('default')]).toEqual([1, undefined]);
    later.release();
    expect((await waiting).status).toBe(204);
    expect(service.acknowledged('default')).toBe(position);
    const next = service.publish(own).position;
    service.faults.loseAnswer();
    await expect(acknowledge(next)).rejects.toThrow(TypeError);
    expect(service.devices('alice')).toEqual([{ device: 'default', cursor: next, acknowledged: next }]);
    service.faults.refuse({ bye: 'over-limit', retryAfterMs: 60_000 });
    const stream = read();
    await clock.advance(0);
    expect(stream.text).toMatch(
      /retry: 60000\nevent: bye\ndata: \{"reason":"over-limit","reconnect":true,"retryAfterMs":60000\}\n\n<end>$/,
    );
  });

  test('a stalled stream that retention overtakes is told the gap', async () => {
    const { clock, service, read } = stage();
    const stream = read();
    await clock.advance(0);
    const resume = service.faults.stall();
    const { position } = service.publish(own);
    service.publish(own);
    service.faults.retain(position);
    resume();
    await clock.advance(0);
    expect(stream.text).toContain(`event: gap\ndata: {"from":"0","oldest":"${position}"}`);
    expect(count(stream.text, '"ü"')).toBe(1);
  });

  test('a restart from a backup has a log that is behind its clients', async () => {
    const { clock, service, read } = stage();
    const kept = service.publish(own).position;
    const lost = service.publish(own).position;
    const before = read(`lastEventId=${lost}`);
    await clock.advance(0);
    service.faults.restart({ lostAfter: kept });
    await clock.advance(0);
    expect(before.text).toMatch(/"reason":"unavailable"[^\n]*\n\n<end>$/);
    const after = read(`lastEventId=${lost}`);
    await clock.advance(0);
    expect(after.text).toContain('"resume":"reset"');
  });

  test('tokens end, and their streams with them', async () => {
    const { clock, service, read, acknowledge } = stage();
    const stream = read();
    await clock.advance(3_540_000);
    expect(stream.text).toContain('event: expiring');
    expect(stream.text).not.toContain('event: bye');
    await clock.advance(60_000);
    expect(stream.text).toContain('"reason":"token-expired"');
    service.faults.endTokens();
    expect((await acknowledge('0')).status).toBe(401);
  });
});

describe('the browser', () => {
  test('a frozen tab gets nothing until it is thawed, and then everything', async () => {
    const { clock, service, browser, read } = stage();
    const [tab, other] = [browser.tab(), browser.tab()];
    const told: string[] = [];
    tab.surroundings.lifecycle.listen((event) => told.push(event));
    tab.surroundings.openChannel?.('c').listen((message) => told.push(message));
    tab.surroundings.clock.after(10, () => told.push('timer'));
    const stream = read('', tab.surroundings.fetch);
    await clock.advance(0);
    const before = stream.text;
    tab.freeze();
    other.surroundings.openChannel?.('c').postMessage('hello');
    service.publish(own);
    await clock.advance(20_000);
    expect([stream.text, told]).toEqual([before, []]);
    expect(service.streams()).toHaveLength(1);
    tab.thaw();
    await clock.advance(0);
    expect(stream.text).toContain('"ü"');
    expect(told).toEqual(['visible', 'hello', 'timer']);
  });

  test('locks wait in line, are stolen, and are free when their tab is gone', async () => {
    const { clock, browser } = stage();
    const [first, second, third] = [browser.tab(), browser.tab(), browser.tab()];
    const told: string[] = [];
    const hold = (
      tab: typeof first,
      name: string,
      options: { steal?: boolean; signal?: AbortSignal } = {},
    ) => {
      let release: () => void = () => undefined;
      tab.surroundings.locks
        ?.request('l', options, async () => {
          told.push(name);
          await new Promise<void>((resolve) => {
            release = resolve;
          });
          told.push(`${name} goes on`);
        })
        .then(
          () => told.push(`${name} over`),
          (error: unknown) => told.push(`${name} ${error instanceof Error ? error.name : ''}`),
        );
      return () => release();
    };
    const over = new AbortController();
    const release = hold(first, 'a');
    hold(second, 'b', { signal: over.signal });
    hold(second, 'c');
    await clock.advance(0);
    expect(browser.locks()).toEqual([{ name: 'l', waiting: 2 }]);
    over.abort();
    hold(third, 'd', { steal: true });
    await clock.advance(0);
    release();
    await clock.advance(0);
    expect(told).toEqual(['a', 'b AbortError', 'a AbortError', 'd', 'a goes on']);
    third.crash();
    await clock.advance(0);
    expect(told.at(-1)).toBe('c');
  });

  test('a tab that is gone does nothing any more, but for what it sent with its last breath', async () => {
    const { clock, service, browser, acknowledge, read } = stage();
    const tab = browser.tab();
    const stream = read('', tab.surroundings.fetch);
    await clock.advance(0);
    const [first, second] = [service.publish(own).position, service.publish(own).position];
    tab.surroundings.clock.after(10, () => tab.surroundings.storage?.setItem('k', 'late'));
    tab.surroundings.lifecycle.listen((event) => {
      tab.surroundings.storage?.setItem('k', event);
      void acknowledge(first, (input, init) => tab.surroundings.fetch(input, { ...init, keepalive: true }));
      void acknowledge(second, tab.surroundings.fetch);
    });
    const held = service.faults.hold({ route: 'POST /v1/acks', times: 2, done: false });
    await tab.close();
    expect(held.waiting).toBe(2);
    held.release();
    await clock.advance(20);
    tab.surroundings.storage?.setItem('k', 'later');
    expect(browser.storage.getItem('k')).toBe('hide');
    expect([service.acknowledged('default'), service.streams()]).toEqual([first, []]);
    expect(stream.text).not.toContain('<');
  });

  test('offline cuts what is open and fails what is asked', async () => {
    const { clock, service, browser, acknowledge, read } = stage();
    const tab = browser.tab();
    const told: string[] = [];
    tab.surroundings.lifecycle.listen((event) => told.push(event));
    const stream = read('', tab.surroundings.fetch);
    await clock.advance(0);
    browser.goOffline();
    await clock.advance(0);
    expect(stream.text).toMatch(/<TypeError>$/);
    expect(service.streams()).toEqual([]);
    await expect(acknowledge('0', tab.surroundings.fetch)).rejects.toThrow(TypeError);
    browser.goOnline();
    expect((await acknowledge('0', tab.surroundings.fetch)).status).toBe(204);
    expect(told).toEqual(['offline', 'online']);
  });
});
