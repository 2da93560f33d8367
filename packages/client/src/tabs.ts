import type { Channel, Clock, Lifecycle, Locks } from './surroundings.ts';

/*
 * One stream for all tabs of a browser. A Web Lock says which tab has it, and that tab tells the others over a channel. No tab
 * beats: timers of hidden tabs are throttled, and would have them steal from one another. Instead a tab that somebody looks at asks
 * now and then, and takes the lock from a tab that does not answer: it is frozen, and holds the lock all the same.
 *
 * Each tab that gets the lock takes a higher term. What a tab of an older term still says is not heard any more.
 */

/** How often a visible tab asks whether the one with the stream is there, and how long it waits for an answer, in ms. */
const ASK_EVERY_MS = 15_000;
const ANSWER_MS = 3_000;

type Message<State, Told, Word> =
  | { readonly kind: 'ask' }
  | { readonly kind: 'state'; readonly term: number; readonly n: number; readonly state: State }
  | { readonly kind: 'event'; readonly term: number; readonly n: number; readonly event: Told }
  /** From any tab to all others. */
  | { readonly kind: 'word'; readonly word: Word };

export interface TabsHost<State, Told, Word> {
  /** Has the stream until `signal` ends it. */
  readonly lead: (term: number, signal: AbortSignal) => Promise<void>;
  /** All that another tab needs to go on as this one. */
  readonly state: () => State;
  readonly restore: (state: State) => void;
  /** The next of what the tab with the stream says. */
  readonly take: (event: Told) => void;
  readonly hear: (word: Word) => void;
  /** The largest that was ever stored. */
  readonly storedTerm: () => number;
  /** A tab that nothing is for leaves the stream to others. */
  readonly isCandidate: () => boolean;
}

export interface SharedBy {
  readonly locks: Locks;
  readonly openChannel: (name: string) => Channel;
}

/** `State`, `Told` and `Word` are JSON. */
export class Tabs<State, Told, Word> {
  #channel: Channel | undefined;
  /** Of the place in the queue for the lock, and then of holding it. */
  #over: AbortController | undefined;
  #isLeading = false;
  #term = 0;
  /** Events so far of this term. Undefined: this tab has not got its state yet. */
  #n: number | undefined;
  /** Calls off what is done if nobody answers. */
  #answered: (() => void) | undefined;
  #stopAsking: (() => void) | undefined;

  constructor(
    private readonly name: string,
    /** Undefined: this tab has its own stream. */
    private readonly sharedBy: SharedBy | undefined,
    private readonly clock: Clock,
    private readonly lifecycle: Lifecycle,
    private readonly random: () => number,
    private readonly host: TabsHost<State, Told, Word>,
  ) {}

  get isLeading(): boolean {
    return this.#isLeading;
  }

  start(): void {
    if (this.sharedBy === undefined) {
      if (this.#over === undefined) void this.#lead((this.#over = new AbortController()));
      return;
    }
    if (this.#channel === undefined) {
      this.#channel = this.sharedBy.openChannel(this.name);
      this.#channel.listen((text) => {
        const message: Message<State, Told, Word> = JSON.parse(text);
        this.#hear(message);
      });
      this.#askAgain();
    }
    if (this.#over === undefined && this.host.isCandidate()) this.#compete(false);
    this.ask();
  }

  stop(): void {
    this.#hasAnswer();
    this.#stopAsking?.();
    this.#over?.abort();
    this.#over = undefined;
    this.#isLeading = false;
    this.#n = undefined;
    this.#channel?.close();
    this.#channel = undefined;
  }

  /** Gets the stream whoever has it. */
  steal(): void {
    this.#over?.abort();
    if (this.sharedBy !== undefined) this.#compete(true);
    else void this.#lead((this.#over = new AbortController()));
  }

  /** Of the tab with the stream to all others, for as long as it `isLeading`. */
  tell(event: Told): void {
    this.#n = (this.#n ?? 0) + 1;
    this.#post({ kind: 'event', term: this.#term, n: this.#n, event });
  }

  say(word: Word): void {
    this.#post({ kind: 'word', word });
  }

  /** Is the tab with the stream still there? */
  ask(): void {
    if (this.#isLeading || this.#channel === undefined) return;
    this.#post({ kind: 'ask' });
    if (!this.lifecycle.isVisible() || !this.host.isCandidate()) return;
    // An answer to what was asked before does not say that it is there now, and neither does none.
    this.#hasAnswer();
    this.#answered = this.clock.after(ANSWER_MS, () => {
      this.#answered = undefined;
      if (!this.#isLeading && this.lifecycle.isVisible()) this.steal();
    });
  }

  #hasAnswer(): void {
    this.#answered?.();
    this.#answered = undefined;
  }

  #askAgain(): void {
    this.#stopAsking = this.clock.after(ASK_EVERY_MS, () => {
      if (this.lifecycle.isVisible()) this.ask();
      this.#askAgain();
    });
  }

  #compete(steal: boolean): void {
    const over = new AbortController();
    this.#over = over;
    const options = steal ? { steal } : { signal: over.signal };
    this.sharedBy?.locks.request(this.name, options, () => this.#lead(over)).catch(() => this.#lost(over));
  }

  async #lead(over: AbortController): Promise<void> {
    if (over.signal.aborted) return;
    this.#isLeading = true;
    // Two tabs that take the lock at once may know the same term, and must not have the same one.
    this.#term = Math.floor(Math.max(this.#term, this.host.storedTerm())) + 1 + this.random();
    this.#n = 0;
    this.#tellState();
    try {
      await this.host.lead(this.#term, over.signal);
    } finally {
      if (this.#over === over) this.#isLeading = false;
    }
  }

  /** Called off, or taken away by another tab: then it queues again. */
  #lost(over: AbortController): void {
    const wasStolen = !over.signal.aborted;
    over.abort();
    if (!wasStolen || this.#over !== over) return;
    this.#isLeading = false;
    this.#n = undefined;
    this.#compete(false);
    this.ask();
  }

  #tellState(): void {
    this.#post({ kind: 'state', term: this.#term, n: this.#n ?? 0, state: this.host.state() });
  }

  #post(message: Message<State, Told, Word>): void {
    this.#channel?.postMessage(JSON.stringify(message));
  }

  #hear(message: Message<State, Told, Word>): void {
    if (message.kind === 'word') this.host.hear(message.word);
    else if (message.kind === 'ask') {
      if (this.#isLeading) this.#tellState();
    } else this.#follow(message);
  }

  #follow(message: Exclude<Message<State, Told, Word>, { kind: 'ask' | 'word' }>): void {
    const { term, n } = message;
    if (term < this.#term || (this.#isLeading && term === this.#term)) return;
    if (term > this.#term) {
      this.#term = term;
      this.#n = undefined;
      // The lock was taken away while this tab was frozen, and it has not been told yet.
      if (this.#isLeading && this.#over !== undefined) this.#lost(this.#over);
    }
    this.#hasAnswer();
    if (message.kind === 'state') {
      if (this.#n === n) return;
      this.#n = n;
      this.host.restore(message.state);
    } else if (this.#n === n - 1) {
      this.#n = n;
      this.host.take(message.event);
    } else if (this.#n !== undefined && n > this.#n) {
      this.#n = undefined;
      this.ask();
    }
  }
}
