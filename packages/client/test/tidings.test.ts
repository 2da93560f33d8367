import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createTidings, type Notification, type Tidings } from '../src/index.ts';
import type { Snapshot } from '../src/wire.ts';
import {
  createFakeBrowser,
  createFakeClock,
  createFakeService,
  type FakeBrowser,
  type FakeClock,
  type FakeService,
  type FakeTab,
} from '../src/testing.ts';

/*
 * One user, one browser, up to four tabs. Streams are cut, torn and go silent, answers are lost, tokens end, tabs are
 * frozen, crash, and are opened and closed, the network goes and comes, the laptop sleeps. Whatever the history: no tab handles
 * anything twice or out of order, and at rest every notification was handled by some tab and is confirmed, one tab has one
 * stream, and every tab has the number of the service.
 */

interface OpenTab {
  readonly tab: FakeTab;
  readonly tidings: Tidings;
  readonly handled: Notification[];
  isFrozen: boolean;
}

const MOST_TABS = 4;
const REST_MS = 180_000;

class Run {
  readonly clock: FakeClock = createFakeClock();
  readonly service: FakeService;
  readonly browser: FakeBrowser;
  readonly tabs: OpenTab[] = [];
  readonly everHandled = new Set<string>();
  readonly published: { readonly id: string; readonly position: string }[] = [];
  readonly errors: unknown[] = [];
  token: string;
  endSilence: () => void = () => undefined;

  constructor(private readonly seed: number) {
    this.service = createFakeService({ clock: this.clock, seed });
    this.browser = createFakeBrowser({ clock: this.clock, fetch: this.service.fetch });
    this.token = this.service.token({ user: 'alice' });
  }

  open(): void {
    if (this.tabs.length === MOST_TABS) return;
    const tab = this.browser.tab();
    let drawn = this.seed + this.tabs.length;
    const random = (): number => (drawn = (drawn * 16_807 + 11) % 2_147_483_647) / 2_147_483_647;
    const tidings = createTidings(
      { url: 'https://tidings.test', user: 'alice', token: () => this.token },
      { ...tab.surroundings, random },
    );
    const open: OpenTab = { tab, tidings, handled: [], isFrozen: false };
    tidings.on('notification', (notification) => {
      const last = open.handled.at(-1);
      if (last !== undefined && Number(last.position) >= Number(notification.position))
        this.errors.push(`${notification.position} behind ${last.position}`);
      open.handled.push(notification);
      this.everHandled.add(notification.id);
    });
    tidings.on('error', (error) => this.errors.push(error));
    tidings.counts.subscribe(() => undefined);
    tidings.start();
    this.tabs.push(open);
  }

  async gone(share: number, how: 'close' | 'crash'): Promise<void> {
    const open = this.#pick(share);
    if (open === undefined) return;
    this.tabs.splice(this.tabs.indexOf(open), 1);
    if (how === 'crash') open.tab.crash();
    else {
      if (open.isFrozen) open.tab.thaw();
      await open.tab.close();
    }
  }

  setFrozen(share: number, isFrozen: boolean): void {
    const open = this.#pick(share);
    if (open === undefined || open.isFrozen === isFrozen) return;
    open.isFrozen = isFrozen;
    if (isFrozen) open.tab.freeze();
    else open.tab.thaw();
  }

  see(share: number, isVisible: boolean): void {
    const open = this.#pick(share);
    if (open?.isFrozen === false) open.tab.setVisible(isVisible);
  }

  publish(): void {
    this.published.push(this.service.publish({ to: { user: 'alice' }, type: 't', data: null }));
  }

  /** Of all tokens so far: the app has another. */
  endTokens(): void {
    this.service.faults.endTokens();
    this.token = this.service.token({ user: 'alice' });
  }

  async rest(): Promise<void> {
    this.endSilence();
    this.browser.goOnline();
    if (this.tabs.length === 0) this.open();
    for (const open of this.tabs) {
      if (open.isFrozen) open.tab.thaw();
      open.isFrozen = false;
      open.tab.setVisible(true);
    }
    await this.clock.advance(REST_MS);
    expect(this.errors).toEqual([]);
    expect(this.tabs.map(({ tidings }) => tidings.status)).toEqual(this.tabs.map(() => 'live'));
    expect(this.service.streams()).toHaveLength(1);
    expect(this.published.filter(({ id }) => !this.everHandled.has(id))).toEqual([]);
    const [device] = this.service.devices('alice');
    expect(device?.cursor).toBe(this.service.head === '0' ? device?.cursor : this.published.at(-1)?.position);
    const counts = await this.#counts();
    for (const { tidings } of this.tabs) expect(tidings.counts.getSnapshot()).toEqual(counts);
  }

  /** What the service says. Faults that nothing has met yet meet this. */
  async #counts(): Promise<Pick<Snapshot, 'unread' | 'unseen' | 'exact'>> {
    const headers = { authorization: `Bearer ${this.token}` };
    for (;;)
      try {
        const answer = await this.service.fetch('https://tidings.test/v1/inbox/counts', { headers });
        if (!answer.ok) continue;
        const { unread, unseen, exact } = (await answer.json()) as Snapshot;
        return { unread, unseen, exact };
      } catch {
        // The next is answered.
      }
  }

  #pick(share: number): OpenTab | undefined {
    return this.tabs[Math.floor((share / 100) * this.tabs.length)];
  }
}

const share = fc.integer({ min: 0, max: 99 });
const ms = fc.constantFrom(100, 1_000, 5_000, 20_000, 70_000);
type Step = (run: Run) => unknown;
const named = (name: string, step: Step): Step => Object.assign(step, { [fc.toStringMethod]: () => name });
const ofTab = (name: string, step: (run: Run, share: number) => unknown): fc.Arbitrary<Step> =>
  share.map((n) => named(`${name} ${n}`, (run) => step(run, n)));
const ofTime = (name: string, step: (run: Run, ms: number) => unknown): fc.Arbitrary<Step> =>
  ms.map((n) => named(`${name} ${n}`, (run) => step(run, n)));
const plain = (name: string, step: Step): fc.Arbitrary<Step> => fc.constant(named(name, step));

const steps = fc.array(
  fc.oneof(
    { arbitrary: plain('publish', (run) => run.publish()), weight: 6 },
    { arbitrary: ofTime('advance', (run, n) => run.clock.advance(n)), weight: 6 },
    ofTime('sleep', (run, n) => run.clock.jump(n)),
    { arbitrary: plain('open', (run) => run.open()), weight: 3 },
    ofTab('close', (run, n) => run.gone(n, 'close')),
    ofTab('crash', (run, n) => run.gone(n, 'crash')),
    ofTab('freeze', (run, n) => run.setFrozen(n, true)),
    ofTab('thaw', (run, n) => run.setFrozen(n, false)),
    ofTab('hide', (run, n) => run.see(n, false)),
    ofTab('show', (run, n) => run.see(n, true)),
    plain('cut', (run) => run.service.faults.cut()),
    plain('tear', (run) => run.service.faults.cut({ afterBytes: 20 })),
    plain('repeat', (run) => run.service.faults.repeat()),
    plain('silence', (run) => (run.endSilence = run.service.faults.goSilent())),
    plain('speak', (run) => run.endSilence()),
    plain('unreachable', (run) => run.service.faults.refuse('unreachable', { times: 2 })),
    plain('bad gateway', (run) => run.service.faults.refuse({ status: 502 }, { times: 2 })),
    plain('shutdown', (run) => run.service.faults.bye('shutdown', { retryAfterMs: 500 })),
    plain('restart', (run) => run.service.faults.restart({ kill: true })),
    plain('lose an acknowledgement', (run) => run.service.faults.loseAnswer({ route: 'POST /v1/acks' })),
    plain('end tokens', (run) => run.endTokens()),
    plain('offline', (run) => run.browser.goOffline()),
    plain('online', (run) => run.browser.goOnline()),
    plain('rest', (run) => run.rest()),
  ),
  { maxLength: 40 },
);

test('whatever happens to tabs, streams and the network, all is handled once and in order, and confirmed', async () => {
  const runs = Number(process.env['TIDINGS_HISTORIES'] ?? 60);
  const seed = process.env['TIDINGS_SEED'];
  await fc.assert(
    fc.asyncProperty(steps, fc.integer({ min: 1, max: 1_000 }), async (history, drawn) => {
      const run = new Run(drawn);
      run.open();
      for (const step of history) {
        await step(run);
        await run.clock.advance(0);
      }
      await run.rest();
    }),
    { numRuns: runs, endOnFailure: true, ...(seed === undefined ? {} : { seed: Number(seed) }) },
  );
});

test('what is handled is confirmed for the device of the token, also when another tab signs out', async () => {
  const clock = createFakeClock();
  const service = createFakeService({ clock });
  const browser = createFakeBrowser({ clock, fetch: service.fetch });
  const token = service.token({ user: 'alice', device: 'kiosk' });
  const [first, second] = [browser.tab(), browser.tab()].map(({ surroundings }) => {
    const tidings = createTidings(
      { url: 'https://tidings.test', user: 'alice', token: () => token },
      surroundings,
    );
    tidings.on('notification', () => undefined);
    tidings.start();
    return tidings;
  });
  await clock.advance(1_000);
  const before = service.publish({ to: { user: 'alice' }, type: 't', data: null });
  await clock.advance(1_000);
  expect(service.acknowledged('kiosk')).toBe(before.position);
  const last = service.publish({ to: { user: 'alice' }, type: 't', data: null });
  await clock.advance(0);
  await second?.signOut();
  await clock.advance(1_000);
  expect([first?.status, second?.status]).toEqual(['signed-out', 'signed-out']);
  expect(service.acknowledged('kiosk')).toBe(last.position);
  expect(service.streams()).toEqual([]);
});
