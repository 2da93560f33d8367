import { asPosition, timeOfPosition } from '../../../src/core/position.ts';

/** The ways in which the books may not balance. */
const FINDINGS = {
  lost: 'lost',
  outOfOrder: 'out of order',
  doubled: 'doubled within a connection',
  expired: 'delivered after expiry',
  foreign: 'to another tenant, user or topic',
  forgotten: 'acknowledged and later undelivered',
  miscounted: 'inboxes with another number than the database',
  storedTwice: 'stored twice, or otherwise than answered',
  strange: 'answers and ends that nobody promised',
  unhealed: 'streams that did not heal',
} as const;

export type Finding = keyof typeof FINDINGS;
export const WORDS: Readonly<Record<Finding, string>> = FINDINGS;

export type To = { readonly user: string } | { readonly topic: string } | { readonly everyone: true };

/** What a publisher has put into `data`, so that whoever gets it knows what it is. */
export interface Tag {
  readonly tenant: string;
  /** Counted from 1 over all that was ever sent; the same when it is sent again. */
  readonly n: number;
}

/** A notification that was answered 201. */
export interface Published extends Tag {
  readonly to: To;
  readonly id: string;
  readonly position: number;
  /** It may be gone before anybody gets it. */
  readonly expires: boolean;
}

/** A notification as a stream showed it. */
export interface Shown {
  readonly id: string;
  readonly to: To;
  readonly data: Tag;
  readonly expiresAt: string | null;
}

/** Whose stream it is. */
export interface Who {
  readonly tenant: string;
  readonly user: string;
  readonly device: string;
  readonly topics: readonly string[];
}

export const nameOf = ({ tenant, user, device }: Who): string => `${tenant}/${user}/${device}`;

export const addressOf = (to: To): string =>
  'user' in to ? `user ${to.user}` : 'topic' in to ? `topic ${to.topic}` : 'everyone';

const addressesOf = ({ user, topics }: Who): string[] => [
  `user ${user}`,
  'everyone',
  ...topics.map((topic) => `topic ${topic}`),
];

/** What one connection has shown. */
export interface Reading {
  /** ms since 1970, before it was asked for. */
  readonly openedAt: number;
  /** Behind this it begins; undefined before it has said so. */
  from: number | undefined;
  /** The last id that came, of whatever event. */
  upTo: number;
  readonly got: number[];
  /** What it was told of the inbox last. */
  inbox: InboxNumber | undefined;
  /** What it has brought that counts in the inbox. */
  readonly counting: { readonly position: number; readonly expiresAt: number }[];
}

/** As `event: inbox` has it. */
export interface InboxNumber {
  readonly unread: number;
  readonly exact: boolean;
  readonly position: string;
  readonly revision: string;
}

/** Examples that are kept of each finding. */
const EXAMPLES = 10;

/** What was promised to whom, and what came of it. */
export class Books {
  readonly found = new Map<Finding, { count: number; readonly examples: string[] }>();
  /** When publishes of each tenant were answered 201, by `performance.now()`. */
  readonly answeredAt = new Map<string, number[]>();
  delivered = 0;
  acknowledged = 0;
  readonly #published: Published[] = [];
  readonly #places = new Map<number, { readonly id: string; readonly position: number }>();
  readonly #last = new Map<string, number>();
  readonly #devices: DeviceBook[] = [];
  #sent = 0;

  /** The number of a notification that is about to be sent. */
  next(): number {
    this.#sent += 1;
    return this.#sent;
  }

  get published(): number {
    return this.#published.length;
  }

  get devices(): readonly DeviceBook[] {
    return this.#devices;
  }

  find(finding: Finding, example: string): void {
    const entry = this.found.get(finding) ?? { count: 0, examples: [] };
    this.found.set(finding, entry);
    entry.count += 1;
    if (entry.examples.length < EXAMPLES) entry.examples.push(example);
  }

  open(who: Who): DeviceBook {
    const book = new DeviceBook(this, who);
    this.#devices.push(book);
    return book;
  }

  /** A publish was answered 201. */
  answered(published: readonly Published[]): void {
    for (const one of published) {
      this.#published.push(one);
      this.place(one.n, one.id, one.position);
      const address = `${one.tenant} ${addressOf(one.to)}`;
      if (!one.expires) this.#last.set(address, Math.max(this.#last.get(address) ?? 0, one.position));
    }
    const [first] = published;
    if (first === undefined) return;
    const times = this.answeredAt.get(first.tenant) ?? [];
    this.answeredAt.set(first.tenant, times);
    times.push(performance.now());
  }

  /** One notification has one id and one position, whoever tells them. */
  place(n: number, id: string, position: number): void {
    const known = this.#places.get(n);
    if (known === undefined) this.#places.set(n, { id, position });
    else if (known.id !== id || known.position !== position)
      this.find('storedTwice', `n ${n}: ${known.id} at ${known.position}, and ${id} at ${position}`);
  }

  /** The furthest position that one of the user's devices may have confirmed. */
  furthestTried({ tenant, user }: Who): number {
    return Math.max(
      0,
      ...this.#devices
        .filter(({ who }) => who.tenant === tenant && who.user === user)
        .map(({ triedUpTo }) => triedUpTo),
    );
  }

  /** What has been published for it so far reaches to here. */
  lastFor(who: Who): number {
    return Math.max(0, ...addressesOf(who).map((address) => this.#last.get(`${who.tenant} ${address}`) ?? 0));
  }

  /** Longest time in which no publish of a tenant was answered, between two times by `performance.now()`; the worst tenant counts. */
  unavailable(from: number, to: number): number {
    let worst = 0;
    for (const times of this.answeredAt.values()) {
      let before = from;
      // From the end: a run has many, and this is asked of its latest part.
      const within = times.slice(times.findLastIndex((at) => at < from) + 1).filter((at) => at <= to);
      for (const at of [...within, to]) {
        worst = Math.max(worst, at - before);
        before = at;
      }
    }
    return worst;
  }

  /** At the end: that every device has everything, and no connection left anything out on its way. */
  balance(): void {
    const byAddress = Map.groupBy(
      this.#published.filter(({ expires }) => !expires),
      ({ tenant, to }) => `${tenant} ${addressOf(to)}`,
    );
    for (const book of this.#devices) {
      const addressed = addressesOf(book.who)
        .flatMap((address) => byAddress.get(`${book.who.tenant} ${address}`) ?? [])
        .sort((a, b) => a.position - b.position);
      book.balance(addressed);
    }
  }

  /** What this device has confirmed, by the answers to its acknowledgements. */
  confirmed(book: DeviceBook): Published[] {
    const addresses = new Set(addressesOf(book.who));
    return this.#published.filter(
      ({ tenant, to, position, expires }) =>
        tenant === book.who.tenant &&
        !expires &&
        position > (book.begin ?? Infinity) &&
        position <= book.confirmedUpTo &&
        addresses.has(addressOf(to)),
    );
  }
}

/** The number that a client shows: that of the last event, and what this connection has brought above its position. */
export function numberOf({ inbox, counting }: Reading, now: number): InboxNumber | undefined {
  if (inbox === undefined) return undefined;
  const more = counting.filter(
    ({ position, expiresAt }) => position > Number(inbox.position) && expiresAt > now,
  ).length;
  return { ...inbox, unread: inbox.unread + more };
}

/** The account of one device. */
export class DeviceBook {
  readonly readings: Reading[] = [];
  /** Where its first connection began. */
  begin: number | undefined;
  /** It was answered that everything up to here is confirmed. */
  confirmedUpTo = 0;
  /** It may be so up to here: what it has sent as an acknowledgement or to resume at. */
  triedUpTo = 0;
  /** The furthest id that it was shown. */
  reached = 0;
  /** It is to get everything behind this. */
  #owedFrom: number | undefined;

  constructor(
    private readonly books: Books,
    readonly who: Who,
  ) {}

  /** A connection says where it begins. `asked`: the position that was sent; `confirmedUpTo`: what was confirmed before that. */
  began(
    reading: Reading,
    resume: string,
    from: number,
    asked: number | undefined,
    confirmedUpTo: number,
  ): void {
    reading.from = from;
    reading.upTo = from;
    const name = nameOf(this.who);
    if (asked !== undefined) {
      if (resume !== 'exact' || from !== asked)
        this.books.find('lost', `${name}: asked for what follows ${asked} and got ${resume} from ${from}`);
    } else if (this.begin !== undefined) {
      if (from < confirmedUpTo)
        this.books.find('forgotten', `${name}: ${confirmedUpTo} was confirmed, and it begins at ${from}`);
      if (from > Math.max(this.begin, this.triedUpTo))
        this.books.find(
          'lost',
          `${name}: begins at ${from}, beyond what it has confirmed: ${this.triedUpTo}`,
        );
    }
    // A new device may leave out what another one of its user has confirmed, and what was before the log began.
    this.#owedFrom ??= Math.min(from, this.books.furthestTried(this.who));
    this.begin ??= from;
  }

  /** An event with an id that is no notification. */
  moved(reading: Reading, position: number): void {
    if (position < reading.upTo)
      this.books.find('outOfOrder', `${nameOf(this.who)}: id ${position} after ${reading.upTo}`);
    reading.upTo = Math.max(reading.upTo, position);
    this.reached = Math.max(this.reached, position);
  }

  shown(reading: Reading, position: number, { id, to, data, expiresAt }: Shown): void {
    const { who, books } = this;
    const told = `${nameOf(who)}: ${id} (n ${data.n}) at ${position}`;
    books.delivered += 1;
    if (data.tenant !== who.tenant || !addressesOf(who).includes(addressOf(to)))
      books.find('foreign', `${told}, which is for ${addressOf(to)} of ${data.tenant}`);
    books.place(data.n, id, position);
    const last = reading.got.at(-1) ?? -1;
    if (position === last || (position < last && reading.got.includes(position)))
      books.find('doubled', `${told} came twice`);
    else if (position <= reading.upTo) books.find('outOfOrder', `${told}, after ${reading.upTo}`);
    // What had expired before it was stored, or before the connection was asked for, cannot have been sent in time, however
    // slow the way is. All clocks but those of nodes are that of this machine.
    const createdAt = timeOfPosition(asPosition(position));
    const notBefore = Math.max(createdAt, reading.openedAt);
    if (expiresAt !== null && Date.parse(expiresAt) <= notBefore)
      books.find(
        'expired',
        `${told}, which expired at ${expiresAt}; it was stored at ${new Date(createdAt).toISOString()}, the stream opened at ${new Date(reading.openedAt).toISOString()}`,
      );
    reading.got.push(position);
    reading.counting.push({ position, expiresAt: expiresAt === null ? Infinity : Date.parse(expiresAt) });
    reading.upTo = Math.max(reading.upTo, position);
    this.reached = Math.max(this.reached, position);
  }

  /** `addressed`: in the order of the log. */
  balance(addressed: readonly Published[]): void {
    const name = nameOf(this.who);
    const all = new Set<number>();
    for (const { from, upTo, got } of this.readings) {
      if (from === undefined) continue;
      const here = new Set(got);
      for (const position of got) all.add(position);
      for (const one of addressed) {
        if (one.position > upTo) break;
        if (one.position > from && !here.has(one.position))
          this.books.find(
            'lost',
            `${name}: ${one.id} (n ${one.n}) at ${one.position} was left out by a connection that read from ${from} to ${upTo}`,
          );
      }
    }
    for (const { id, n, position } of addressed)
      if (position > (this.#owedFrom ?? 0) && !all.has(position))
        this.books.find('lost', `${name}: ${id} (n ${n}) at ${position} never came`);
  }
}
