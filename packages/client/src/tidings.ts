import { Acknowledgements } from './acknowledgements.ts';
import { Caller, SignedOut, type GetToken } from './call.ts';
import { Inboxes, type Inbox, type InboxOptions } from './inbox.ts';
import { hashOf, Memory, type Place } from './memory.ts';
import { Session, type Status } from './session.ts';
import type { StreamEvent } from './stream.ts';
import { surroundings, type Surroundings } from './surroundings.ts';
import { Tabs } from './tabs.ts';
import { isAfter, type DataTypes, type Gap, type Notification, type Sync } from './wire.ts';

export interface TidingsOptions {
  /** Where the service is, without a slash at the end. Empty: where the page is from. */
  readonly url: string;
  /**
   * The app's name of the login, such as the id of the user. Tabs with the same share one stream, and what is read on is kept.
   * Without it nothing is shared between tabs or kept when one is closed.
   */
  readonly user?: string;
  /**
   * The token of whoever is logged in; undefined where the session is a cookie. Asked at the start, before a token ends, and when
   * one is refused. Throw `SignedOut` if nobody is logged in any more; whatever else it throws is reported, and it is asked again.
   */
  readonly token: GetToken;
  /** Which of the user's devices this is: 1-64 of `A-Za-z0-9._-`. `auto`: one per profile of the browser and user. */
  readonly device?: string;
  /** `off`: each tab has a stream of its own. */
  readonly share?: 'auto' | 'off';
  /** `event-source`: the browser's own, opened with a ticket or a cookie. It shows no heartbeats, so that a dead proxy is not noticed. */
  readonly transport?: 'fetch' | 'event-source';
}

/** How a notification came. */
export interface Arrival {
  /** False: it was published before this stream had caught up. */
  readonly live: boolean;
  /** This tab is the one to show it: of all that somebody looks at, exactly one. */
  readonly announce: boolean;
}

export interface TidingsEvents<Types extends DataTypes> {
  /** Confirmed once all handlers are done. What a handler throws is an `error`, and the notification counts as handled. */
  notification(notification: Notification<Types>, arrival: Arrival): unknown;
  status(status: Status): unknown;
  /** All that was missed has come. */
  'caught-up'(): unknown;
  /** The service does not keep any more what was between. */
  gap(gap: Gap): unknown;
  /** Once. `reason`: what the service said, or `signed-out`. */
  'signed-out'(reason: string): unknown;
  /** What went wrong and did not stop anything. Without a handler it is written to the console. */
  error(error: unknown): unknown;
}

/** What the tab with the stream tells the others. */
type Told =
  | { readonly kind: 'stream'; readonly event: StreamEvent }
  | { readonly kind: 'status'; readonly status: Status; readonly reason: string | undefined }
  | { readonly kind: 'closed' }
  | { readonly kind: 'token'; readonly key: string }
  | { readonly kind: 'wipe' };

/** What any tab tells the others. */
type Word =
  | { readonly kind: 'wake'; readonly isNewNetwork: boolean }
  | { readonly kind: 'queue'; readonly queue: unknown }
  | { readonly kind: 'signed-out' };

interface TabState {
  readonly status: Status;
  readonly live: boolean;
  readonly received: string;
  readonly inbox: unknown;
}

export class Tidings<Types extends DataTypes = DataTypes> {
  readonly #surroundings: Surroundings;
  readonly #memory: Memory;
  readonly #caller: Caller;
  readonly #inboxes: Inboxes;
  readonly #tabs: Tabs<TabState, Told, Word>;
  readonly #handlers: { [Name in keyof TidingsEvents<DataTypes>]: Set<TidingsEvents<DataTypes>[Name]> } = {
    notification: new Set(),
    status: new Set(),
    'caught-up': new Set(),
    gap: new Set(),
    'signed-out': new Set(),
    error: new Set(),
  };
  #status: Status = 'idle';
  #isStarted = false;
  /** In the browser's cache of pages, perhaps for ever. */
  #isAway = false;
  #stopListening: (() => void) | undefined;
  /** This tab has the stream. */
  #session: Session | undefined;
  #acknowledgements: Acknowledgements | undefined;
  #live = false;
  /** Handlers have been given all up to here. They may be at work still. */
  #received = '';
  /** And are done with all up to here. */
  #handled = '';
  #work: Promise<void> = Promise.resolve();
  /** Of the log that is read: grows where another takes its place. */
  #log = 0;
  #term = 0;
  readonly #isShared: boolean;
  /** Of all tabs that somebody looks at this one shows what comes. */
  #front: AbortController | undefined;
  #isInFront = false;

  constructor(
    private readonly options: TidingsOptions,
    given: Partial<Surroundings> = {},
  ) {
    const { url, user, token, share = 'auto' } = options;
    this.#surroundings = surroundings(given, user !== undefined);
    const { locks, openChannel, clock, lifecycle, random, fetch } = this.#surroundings;
    this.#memory = new Memory(
      () => this.#surroundings.storage,
      `tidings:${hashOf(`${url}\n${user ?? ''}`)}`,
      random,
    );
    this.#caller = new Caller(url, token, fetch, clock);
    const report = (error: unknown): void => this.#report(error);
    const memory = this.#memory;
    const sharedBy =
      share === 'auto' && user !== undefined && locks !== undefined && openChannel !== undefined
        ? { locks, openChannel }
        : undefined;
    this.#isShared = sharedBy !== undefined;
    this.#inboxes = new Inboxes({
      call: (path, init) => this.#caller.json(path, init),
      clock,
      random,
      queue: {
        read: () => memory.queue,
        write: (text) => (memory.queue = text),
        exclusively: (run) =>
          sharedBy === undefined
            ? run()
            : new Promise((resolve, reject) => {
                const hold = async (): Promise<void> => resolve(await run());
                sharedBy.locks.request(`${memory.name}:queue`, {}, hold).catch(reject);
              }),
      },
      share: (queue) => this.#say({ kind: 'queue', queue }),
      report,
    });
    this.#tabs = new Tabs(memory.name, sharedBy, clock, lifecycle, random, {
      lead: (term, signal) => this.#lead(term, signal),
      state: () => this.#state(),
      restore: (state) => this.#restore(state),
      take: (told) => this.#take(told),
      hear: (word) => this.#hear(word),
      storedTerm: () => memory.place?.term ?? 0,
      isCandidate: () => this.#handlers.notification.size > 0 || this.#inboxes.isUsed,
    });
  }

  get status(): Status {
    return this.#status;
  }

  /** Returns how to end it. */
  on<Name extends keyof TidingsEvents<Types>>(name: Name, handler: TidingsEvents<Types>[Name]): () => void;
  on<Name extends keyof TidingsEvents<DataTypes>>(
    name: Name,
    handler: TidingsEvents<DataTypes>[Name],
  ): () => void {
    this.#handlers[name].add(handler);
    // It may be the first that this tab needs a stream for.
    if (name === 'notification' && this.#isStarted) this.#tabs.start();
    return () => void this.#handlers[name].delete(handler);
  }

  /** The list of the user, to be looked at and marked. The same options give the same one. */
  inbox(options: InboxOptions = {}): Inbox<Types> {
    return this.#inboxes.open<Types>(options);
  }

  /** The numbers of the inbox alone: no list is loaded for them. */
  get counts(): Inboxes['counts'] {
    return this.#inboxes.counts;
  }

  /** Also what comes back after `replaced` and `signed-out`. */
  start(): void {
    const isBack = this.#isStarted && (this.#status === 'replaced' || this.#status === 'signed-out');
    if (this.#isStarted && !isBack) return;
    if (!this.#isStarted) {
      this.#isStarted = true;
      this.#warn();
      this.#stopListening = this.#surroundings.lifecycle.listen((event) => {
        if (event === 'hide') this.#hide();
        else if (event === 'visible') this.#show();
        else if (event === 'hidden') this.#leaveFront();
        else if (event === 'online') this.#wake(true);
      });
      this.#takeFront();
    }
    if (this.#status === 'signed-out') this.#caller.forget();
    this.#inboxes.onUse = () => this.#isStarted && this.#tabs.start();
    if (isBack) this.#tabs.steal();
    else this.#tabs.start();
  }

  stop(): void {
    if (!this.#isStarted) return;
    this.#isStarted = false;
    this.#stopListening?.();
    this.#leaveFront();
    this.#tabs.stop();
    this.#setStatus('idle');
  }

  /** Ends the session in all tabs and forgets what was kept of it. What was handled is confirmed before. */
  async signOut(): Promise<void> {
    await this.#acknowledgements?.flush();
    this.#say({ kind: 'signed-out' });
    this.#signedOut();
    try {
      if ((await this.#caller.token()) === undefined)
        await this.#caller.request('/v1/session', { method: 'DELETE' });
    } catch (error) {
      if (!(error instanceof SignedOut)) this.#report(error);
    }
    this.#caller.forget();
  }

  #signedOut(): void {
    this.#isStarted = false;
    this.#stopListening?.();
    this.#leaveFront();
    this.#tabs.stop();
    this.#wipe();
    this.#setStatus('signed-out', 'signed-out');
  }

  // The page

  #warn(): void {
    const { share = 'auto', user } = this.options;
    const { locks, openChannel } = this.#surroundings;
    if (share === 'off' || user === undefined || typeof document === 'undefined') return;
    if (locks === undefined || openChannel === undefined)
      console.warn(
        'Tidings: this page has no Web Locks (they need https) or no BroadcastChannel, so each tab has a stream of its own. Over HTTP/1.1 a browser opens six connections to a host, and six tabs take all of them.',
      );
  }

  #hide(): void {
    this.#isAway = true;
    void this.#acknowledgements?.flush(true);
    this.#leaveFront();
    this.#tabs.stop();
  }

  #show(): void {
    this.#takeFront();
    if (this.#isAway) {
      this.#isAway = false;
      this.#tabs.start();
    } else this.#wake(false);
  }

  #wake(isNewNetwork: boolean): void {
    this.#inboxes.online();
    if (this.#session !== undefined) {
      this.#session.wake(isNewNetwork);
      void this.#acknowledgements?.flush();
    } else {
      this.#say({ kind: 'wake', isNewNetwork });
      this.#tabs.ask();
    }
  }

  /** A lock that all visible tabs wait for: whoever has it is the one. */
  #takeFront(): void {
    const { lifecycle, locks } = this.#surroundings;
    if (this.#front !== undefined || !lifecycle.isVisible()) return;
    const front = (this.#front = new AbortController());
    const hold = (): Promise<void> =>
      new Promise((resolve) => {
        this.#isInFront = !front.signal.aborted;
        if (front.signal.aborted) resolve();
        else front.signal.addEventListener('abort', () => resolve());
      });
    if (locks === undefined || this.options.user === undefined) void hold();
    // Called off while it waited.
    else locks.request(`${this.#memory.name}:front`, { signal: front.signal }, hold).catch(() => undefined);
  }

  #leaveFront(): void {
    this.#isInFront = false;
    this.#front?.abort();
    this.#front = undefined;
  }

  // The tab with the stream

  async #lead(term: number, signal: AbortSignal): Promise<void> {
    const { clock, random } = this.#surroundings;
    const { device = 'auto', transport = 'fetch' } = this.options;
    const name = device === 'auto' ? this.#memory.device() : device;
    let tokens = 0;
    const acknowledgements = new Acknowledgements(
      this.#caller,
      clock,
      name,
      () => session.token,
      random,
      (error) => this.#report(error),
    );
    const session: Session = new Session(
      this.#caller,
      this.#surroundings,
      { device: name, transport },
      acknowledgements,
      {
        position: () => this.#handled,
        status: (status, reason) => this.#tell({ kind: 'status', status, reason }),
        take: (event) => {
          if (event.name === 'sync') this.#isSame(event.data, term);
          this.#tell({ kind: 'stream', event });
        },
        otherToken: () => this.#tell({ kind: 'token', key: `${term}.${(tokens += 1)}` }),
        closed: () => this.#tell({ kind: 'closed' }),
        report: (error) => this.#report(error),
      },
    );
    this.#after(() => this.#catchUp(this.#memory.place?.position ?? ''));
    await this.#work;
    if (signal.aborted) return;
    this.#session = session;
    this.#acknowledgements = acknowledgements;
    this.#term = term;
    const ended = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    void ended.then(() => session.stop());
    await session.run();
    // Others would begin where this one has ended for good: it keeps its place.
    await ended;
    acknowledgements.stop();
    if (this.#session === session) this.#session = this.#acknowledgements = undefined;
  }

  /** What the tab before this one has handled. */
  #catchUp(position: string): void {
    if (position === '' || !isAfter(position, this.#handled)) return;
    this.#handled = position;
    if (isAfter(position, this.#received)) this.#received = position;
  }

  /** Another user, or another tenant, has another log, and nothing of this one: not even where it was. */
  #isSame({ user, tenant }: Sync, term: number): void {
    const place = this.#memory.place;
    if (place === undefined || (place.user === user && place.tenant === tenant)) {
      this.#memory.place = { user, tenant, term, position: place?.position ?? '' };
      return;
    }
    const isMidway = this.#handled !== '';
    this.#tell({ kind: 'wipe' });
    this.#memory.place = { user, tenant, term, position: '' };
    if (isMidway) this.#session?.wake(true);
  }

  #tell(told: Told): void {
    // The stream of a tab that has lost it comes to its end.
    if (!this.#tabs.isLeading) return;
    this.#tabs.tell(told);
    this.#take(told);
  }

  // Every tab

  #say(word: Word): void {
    this.#tabs.say(word);
  }

  #hear(word: Word): void {
    if (word.kind === 'queue') this.#inboxes.adopt(word.queue);
    else if (word.kind === 'signed-out') {
      void this.#acknowledgements?.flush(true);
      this.#signedOut();
    } else if (this.#session !== undefined) this.#session.wake(word.isNewNetwork);
  }

  #state(): TabState {
    return {
      status: this.#status,
      live: this.#live,
      received: this.#received,
      inbox: this.#inboxes.state(),
    };
  }

  /** This tab begins where another is: what that one has brought was for those that were there. */
  #restore({ status, live, received, inbox }: TabState): void {
    this.#live = live;
    this.#received = received;
    this.#inboxes.restore(inbox);
    this.#setStatus(status);
  }

  #take(told: Told): void {
    if (told.kind === 'stream') this.#event(told.event);
    else if (told.kind === 'status') this.#setStatus(told.status, told.reason);
    else if (told.kind === 'closed') {
      this.#live = false;
      this.#inboxes.closed();
    } else if (told.kind === 'token') this.#inboxes.hasToken(told.key);
    else this.#wipe();
  }

  #event(event: StreamEvent): void {
    if (event.name === 'sync') this.#synced(event.data);
    else if (event.name === 'inbox') this.#inboxes.told(event.data);
    else if (event.name === 'gap') this.#gap(event.data);
    else if (event.name === 'notification') this.#arrived(event.data);
    else if (event.name === 'caught-up' || event.name === 'position') this.#moved(event.id);
    if (event.name !== 'caught-up') return;
    this.#live = true;
    this.#each('caught-up', (handler) => handler());
  }

  #synced(sync: Sync): void {
    this.#live = false;
    this.#inboxes.opened(sync);
    const { resume, from, oldest } = sync;
    if (resume === 'reset') {
      this.#received = from;
      this.#after(() => this.#done(from, true));
    }
    if (oldest !== undefined) this.#gap({ from, oldest });
  }

  #gap(gap: Gap): void {
    this.#inboxes.gap(gap);
    this.#each('gap', (handler) => handler(gap));
  }

  #arrived(notification: Notification): void {
    this.#inboxes.arrived(notification);
    const { position } = notification;
    // A new stream begins where handlers are done, and brings again what they are at.
    if (this.#received !== '' && !isAfter(position, this.#received)) return;
    this.#received = position;
    const arrival = { live: this.#live, announce: this.#isInFront };
    const log = this.#log;
    this.#after(async () => {
      for (const handler of this.#handlers.notification)
        try {
          await handler(notification, arrival);
        } catch (error) {
          this.#report(error);
        }
      if (log !== this.#log) return;
      this.#done(position);
      if (this.#session !== undefined) this.#acknowledgements?.handled(position);
    });
  }

  #moved(position: string): void {
    if (this.#received !== '' && !isAfter(position, this.#received)) return;
    this.#received = position;
    this.#after(() => this.#done(position));
  }

  /** One after the other. What is not over when another log begins is not of it any more. */
  #after(run: () => unknown): void {
    this.#work = this.#next(this.#work, this.#log, run);
  }

  async #next(earlier: Promise<void>, log: number, run: () => unknown): Promise<void> {
    await earlier;
    if (log === this.#log) await run();
  }

  /** `anew`: the log went back. Else positions only grow, whatever a tab of an older term still writes. */
  #done(position: string, anew = false): void {
    this.#handled = position;
    const place: Place | undefined = this.#memory.place;
    if (this.#session === undefined || place === undefined || (this.#isShared && place.term > this.#term))
      return;
    if (anew || isAfter(position, place.position)) this.#memory.place = { ...place, position };
  }

  #wipe(): void {
    this.#log += 1;
    this.#received = this.#handled = '';
    this.#memory.place = undefined;
    this.#memory.queue = null;
    this.#inboxes.wipe();
  }

  #setStatus(status: Status, reason = 'signed-out'): void {
    if (status === this.#status) return;
    this.#status = status;
    this.#inboxes.withoutStream(status === 'limited' || status === 'replaced');
    this.#each('status', (handler) => handler(status));
    if (status === 'signed-out') this.#each('signed-out', (handler) => handler(reason));
  }

  #each<Name extends keyof TidingsEvents<DataTypes>>(
    name: Name,
    call: (handler: TidingsEvents<DataTypes>[Name]) => unknown,
  ): void {
    for (const handler of this.#handlers[name])
      try {
        call(handler);
      } catch (error) {
        this.#report(error);
      }
  }

  #report(error: unknown): void {
    if (this.#handlers.error.size === 0) console.error('Tidings:', error);
    for (const handler of this.#handlers.error) handler(error);
  }
}

/** A client of one user. Nothing happens before `start`. */
export function createTidings<Types extends DataTypes = DataTypes>(
  options: TidingsOptions,
  surroundingsGiven?: Partial<Surroundings>,
): Tidings<Types> {
  return new Tidings<Types>(options, surroundingsGiven);
}
