import { expect, test } from '@jest/globals';
import { createTidings, ServiceError, SignedOut, type Status } from '../src/index.ts';
import { createFakeBrowser, createFakeClock, createFakeService } from '../src/testing.ts';

/* What a tab does when the service does not take it, step by step. The model of tabs has no refusals that stay. */

/** Less than tokens last. */
const LONG_MS = 1_800_000;

function setUp({ token: given }: { token?: (asked: number) => string } = {}) {
  const clock = createFakeClock();
  const service = createFakeService({ clock });
  const browser = createFakeBrowser({ clock, fetch: service.fetch });
  const statuses: Status[] = [];
  const reasons: string[] = [];
  const errors: unknown[] = [];
  const token = service.token({ user: 'alice' });
  let asked = 0;
  const tidings = createTidings(
    { url: 'https://tidings.test', user: 'alice', token: () => given?.((asked += 1)) ?? token },
    { ...browser.tab().surroundings, random: () => 0.5 },
  );
  tidings.on('status', (status) => statuses.push(status));
  tidings.on('signed-out', (reason) => reasons.push(reason));
  tidings.on('error', (error) => errors.push(error));
  tidings.on('notification', () => undefined);
  tidings.counts.subscribe(() => undefined);
  const streams = (): number => service.requests.filter(({ route }) => route === 'GET /v1/stream').length;
  return { clock, service, browser, tidings, statuses, reasons, errors, streams, asked: () => asked };
}

test('a refusal of the person ends the session, once and with its code', async () => {
  const { clock, service, tidings, statuses, reasons, errors, streams } = setUp();
  service.faults.refuse({ problem: 'tenant_suspended' }, { route: 'GET /v1/stream', times: Infinity });
  tidings.start();
  await clock.advance(LONG_MS);
  expect(statuses).toEqual(['connecting', 'signed-out']);
  expect(reasons).toEqual(['tenant_suspended']);
  expect(errors).toEqual([]);
  expect(streams()).toBe(1);
});

test.each(['validation_failed', 'not_found'] as const)(
  'what is refused for good (%s) is told, and tried again in five minutes',
  async (problem) => {
    const { clock, service, tidings, statuses, errors, streams } = setUp();
    service.faults.refuse({ problem }, { route: 'GET /v1/stream', times: 2 });
    tidings.start();
    await clock.advance(299_000);
    expect(streams()).toBe(1);
    expect(tidings.status).toBe('offline');
    expect(errors).toEqual([expect.any(ServiceError)]);
    expect(errors).toEqual([expect.objectContaining({ code: problem })]);
    await clock.advance(2_000);
    expect(streams()).toBe(2);
    await clock.advance(301_000);
    expect(streams()).toBe(3);
    expect(statuses).toEqual(['connecting', 'offline', 'catching-up', 'live']);
    expect(errors).toHaveLength(2);
  },
);

test('without room for its stream the number is asked for, until there is room', async () => {
  const { clock, service, tidings, statuses, errors } = setUp();
  service.faults.refuse({ bye: 'over-limit', retryAfterMs: 300_000 }, { route: 'GET /v1/stream', times: 2 });
  tidings.start();
  await clock.advance(1_000);
  expect(tidings.status).toBe('limited');
  for (const unread of [1, 2]) {
    service.publish({ to: { user: 'alice' }, type: 't', data: null });
    await clock.advance(61_000);
    expect(tidings.counts.getSnapshot()).toMatchObject({ unread });
  }
  expect(tidings.status).toBe('limited');
  await clock.advance(600_000);
  expect(statuses).toEqual(['connecting', 'limited', 'catching-up', 'live']);
  const asked = service.requests.length;
  await clock.advance(LONG_MS);
  const counts = service.requests.slice(asked).filter(({ route }) => route === 'GET /v1/inbox/counts');
  expect(counts).toEqual([]);
  expect(errors).toEqual([]);
});

test.each([
  ['a proxy', { status: 503 } as const],
  ['the service', { problem: 'overloaded', retryAfter: 1 } as const],
  ['nobody', 'unreachable' as const],
])('while %s answers that it passes, waits double, up to half a minute', async (_, refusal) => {
  const { clock, service, tidings, errors } = setUp();
  service.faults.refuse(refusal, { route: 'GET /v1/stream', times: 10 });
  tidings.start();
  await clock.advance(LONG_MS);
  expect(tidings.status).toBe('live');
  const at = service.requests.filter(({ route }) => route === 'GET /v1/stream').map((request) => request.at);
  const waits = at.slice(1).map((time, n) => time - (at[n] ?? 0));
  // Half of each, as `random` says; the service's own second is more than the first half.
  const first = refusal instanceof Object && 'problem' in refusal ? 1_000 : 500;
  expect(waits).toEqual([first, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000, 15_000, 15_000]);
  expect(errors).toEqual([]);
});

test('a token that is refused is asked for anew, and two in a row end the session', async () => {
  const { clock, tidings, statuses, reasons, asked } = setUp({ token: (n) => `wrong-${n}` });
  tidings.start();
  await clock.advance(LONG_MS);
  expect(asked()).toBe(2);
  expect(statuses).toEqual(['connecting', 'signed-out']);
  expect(reasons).toHaveLength(1);
});

test('nobody is logged in any more when the app says so, and comes back by `start`', async () => {
  let isLoggedIn = false;
  const { clock, service, tidings, statuses, reasons, errors } = setUp({
    token: () => {
      if (!isLoggedIn) throw new SignedOut();
      return service.token({ user: 'alice' });
    },
  });
  tidings.start();
  await clock.advance(LONG_MS);
  expect(statuses).toEqual(['connecting', 'signed-out']);
  expect(reasons).toEqual(['signed-out']);
  expect(service.requests).toEqual([]);
  isLoggedIn = true;
  tidings.start();
  await clock.advance(1_000);
  expect(tidings.status).toBe('live');
  expect(errors).toEqual([]);
});

test('an app that could not ask for a token just then is asked again, and told', async () => {
  const { clock, service, tidings, errors } = setUp({
    token: (n) => {
      if (n < 3) throw new Error('the login server is away');
      return service.token({ user: 'alice' });
    },
  });
  tidings.start();
  await clock.advance(60_000);
  expect(tidings.status).toBe('live');
  expect(errors.map(String)).toEqual(Array.from({ length: 2 }, () => 'Error: the login server is away'));
});

test.each(['a sleep', 'a while without a network'])(
  'after %s the next stream is opened at once',
  async (what) => {
    const { clock, service, browser, tidings, streams } = setUp();
    tidings.start();
    await clock.advance(60_000);
    expect(tidings.status).toBe('live');
    // What is open stays so, and brings nothing any more.
    service.faults.goSilent()();
    let before = streams();
    if (what === 'a sleep') await clock.jump(LONG_MS);
    else {
      browser.goOffline();
      await clock.advance(LONG_MS);
      before = streams();
      browser.goOnline();
      await clock.advance(0);
    }
    expect(streams()).toBe(before + 1);
    expect(tidings.status).toBe('live');
  },
);
