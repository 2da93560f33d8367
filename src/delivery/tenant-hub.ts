import type { TenantId } from '../core/identifiers.ts';
import type { Batch, Notification } from '../core/notification.ts';
import { asPosition, timeOfPosition, type Position } from '../core/position.ts';
import { TimeSlicer } from '../concurrency/pacing.ts';
import type { StreamNode } from './stream-node.ts';
import { Tail, userOf, type Address, type Entry } from './tail.ts';

/** A connection as its hub sees it. */
export interface HubMember {
  readonly addresses: readonly Address[];
  /** It has everything up to here. */
  readonly position: Position;
  /** Takes of these entries, which are in the order of the log, those that it has not seen, while it is live. */
  deliver(entries: readonly Entry[]): void;
  fallBehind(position: Position): void;
  readOn(): Promise<void>;
}

/** What waits for the connections of one address. */
interface AddressRun {
  readonly entries: readonly [Entry, ...Entry[]];
  readonly committedAt: number;
}

/** The log ends before a position that was said to be in it. */
export class LogEndsBefore extends Error {
  override readonly name = 'LogEndsBefore';

  constructor() {
    super('the log ends before a position that was said to be in it');
  }
}

/** What is for more connections than these is a broadcast, and waits in a queue: 16 take less than a millisecond. */
const DIRECT_LIMIT = 16;

/** What a hub needs of the node that it is on. */
export type HubNode = Pick<StreamNode, 'metrics' | 'clock' | 'readAfter' | 'trim' | 'databaseTrouble'>;

/** The streams of one tenant on this node, and the tail of the log that they live from. It exists while there is one. */
export class TenantHub<Member extends HubMember> {
  readonly tail: Tail;
  /** Every live connection was offered everything up to here. */
  dispatchedUpTo: Position;
  readonly connections = new Set<Member>();
  /** Of most addresses, those of users, there is one: a set for each would be a twentieth of what a stream keeps. */
  readonly #recipients = new Map<Address, Member | Set<Member>>();
  readonly #arrived: { entries: readonly Entry[]; head: Position; committedAt: number }[] = [];
  /** The first is under way. */
  readonly #broadcasts: AddressRun[] = [];
  /** Everything up to here was offered to its connections, or waits in `#broadcasts`. */
  #enqueuedUpTo: Position;
  #dispatching = false;
  #healing: Promise<void> | undefined;

  constructor(
    readonly tenantId: TenantId,
    head: Position,
    private readonly node: HubNode,
  ) {
    this.tail = new Tail(head);
    this.dispatchedUpTo = head;
    this.#enqueuedUpTo = head;
  }

  join(connection: Member): void {
    this.connections.add(connection);
    this.#connect(connection, connection.addresses);
  }

  leave(connection: Member): void {
    this.connections.delete(connection);
    this.#disconnect(connection, connection.addresses);
  }

  /** The addresses of a connection are others from now on. */
  readdress(connection: Member, before: readonly Address[]): void {
    this.#connect(connection, connection.addresses);
    this.#disconnect(
      connection,
      before.filter((address) => !connection.addresses.includes(address)),
    );
  }

  /** The connections that an address stands for. */
  recipients(address: Address): Iterable<Member> {
    const known = this.#recipients.get(address);
    return known === undefined ? [] : each(known);
  }

  /** A batch was committed. If it does not follow the tail, the log is read between. */
  offer(batch: Omit<Batch, 'tenantId'>): void {
    const entries = this.tail.append(batch);
    if (entries === 'known') return;
    if (entries === 'hole') {
      this.node.metrics.tailHoles.inc();
      void this.reach(batch.head).catch((error: unknown) => this.node.databaseTrouble(error));
      return;
    }
    this.node.trim(this.tail);
    this.#arrived.push({ entries, head: batch.head, committedAt: batch.committedAt });
    void this.#dispatch();
  }

  /** Drops from memory what is for users of whom `isGone` holds, up to `position`. */
  async purge(isGone: (user: string) => boolean, position: Position): Promise<void> {
    // What is being read may have been asked for before it was erased.
    await this.#healing?.catch(() => undefined);
    for (const address of [...this.tail.addresses]) {
      const user = userOf(address);
      if (user !== undefined && isGone(user)) this.tail.forget(address, position);
    }
  }

  /** Reads the log until the tail reaches `position`. Throws when the database cannot be read or its log ends before; the next poll tries again. */
  async reach(position: Position): Promise<void> {
    while (this.tail.head < position) {
      const before = this.tail.head;
      this.#healing ??= this.#heal().finally(() => {
        this.#healing = undefined;
      });
      await this.#healing;
      // The log went back under us: asking again at once would only ask again.
      if (this.tail.head === before) throw new LogEndsBefore();
    }
  }

  #connect(connection: Member, addresses: readonly Address[]): void {
    for (const address of addresses) {
      const known = this.#recipients.get(address);
      if (known === undefined) this.#recipients.set(address, connection);
      else if (known instanceof Set) known.add(connection);
      else if (known !== connection) this.#recipients.set(address, new Set([known, connection]));
    }
  }

  #disconnect(connection: Member, addresses: readonly Address[]): void {
    for (const address of addresses) {
      const known = this.#recipients.get(address);
      if (known instanceof Set) known.delete(connection);
      if (known === connection || (known instanceof Set && known.size === 0))
        this.#recipients.delete(address);
    }
  }

  async #heal(): Promise<void> {
    const run = await this.node.readAfter(this.tenantId, this.tail.head);
    if (run.upTo < run.head) {
      // More than a window holds: the connections read it for themselves, each as fast as it can.
      this.#restart(run.head);
      return;
    }
    const previous = this.tail.head;
    const notifications = run.notifications.filter((notification) => notification.position > previous);
    this.offer({
      previous,
      head: asPosition(Math.max(run.head, previous)),
      notifications,
      committedAt: performance.now() - this.#ageOf(notifications),
    });
  }

  /** Since the first of these was accepted, in ms, by the database's clock: another node committed them, shortly after that. */
  #ageOf([first]: readonly Notification[]): number {
    return first === undefined ? 0 : Math.max(0, this.node.clock.now() - timeOfPosition(first.position));
  }

  #restart(head: Position): void {
    if (head <= this.tail.head) return;
    this.tail.restart(head);
    for (const connection of this.connections) {
      connection.fallBehind(this.dispatchedUpTo);
      void connection.readOn();
    }
    this.#arrived.length = 0;
    this.#broadcasts.length = 0;
    this.#enqueuedUpTo = head;
    this.dispatchedUpTo = head;
  }

  /** A broadcast to thousands must not hold up single users, nor other tenants: it goes in slices, and they go between. */
  async #dispatch(): Promise<void> {
    if (this.#dispatching) return;
    this.#dispatching = true;
    const slice = new TimeSlicer();
    while (this.#arrived.length > 0 || this.#broadcasts.length > 0) {
      await this.#serveDirect(slice);
      await this.#serveBroadcast(slice);
    }
    this.#dispatching = false;
  }

  /** Offers what is for a few connections, and puts the rest behind what waits. */
  async #serveDirect(slice: TimeSlicer): Promise<void> {
    for (let batch = this.#arrived.shift(); batch !== undefined; batch = this.#arrived.shift()) {
      for (const entries of runsOf(batch.entries)) {
        const run = { entries, committedAt: batch.committedAt };
        if (!this.#serveNow(run)) this.#broadcasts.push(run);
        if (slice.isOver) await slice.next();
      }
      this.#enqueuedUpTo = asPosition(Math.max(this.#enqueuedUpTo, batch.head));
      this.#advanceDispatched();
    }
  }

  /** Offers a run now; false: it is a broadcast, and has to wait. A connection that is served while broadcasts wait first gets its entries of these, so that it gets everything in order. */
  #serveNow(run: AddressRun): boolean {
    const known = this.#recipients.get(run.entries[0].address);
    if (known === undefined) return true;
    if (known instanceof Set && known.size > DIRECT_LIMIT) return false;
    for (const connection of each(known)) {
      const missing = this.#broadcasts.length === 0 ? run.entries : this.#missing(connection);
      // The tail was trimmed beyond what waits.
      if (missing === undefined) return false;
      connection.deliver(missing);
    }
    this.#observe(run);
    return true;
  }

  /** What a connection has not been offered, of all that is in the tail. */
  #missing({ position, addresses }: Member): readonly Entry[] | undefined {
    return this.tail.after(asPosition(Math.max(this.dispatchedUpTo, position)), addresses);
  }

  /** Offers the first of what waits. */
  async #serveBroadcast(slice: TimeSlicer): Promise<void> {
    const [run] = this.#broadcasts;
    if (run === undefined) return;
    // Whoever becomes live while this waits is visited too, and knows by its position what it has.
    for (const connection of this.recipients(run.entries[0].address)) {
      connection.deliver(run.entries);
      if (!slice.isOver) continue;
      await slice.next();
      await this.#serveDirect(slice);
    }
    this.#observe(run);
    // Unless the hub has started anew meanwhile.
    if (this.#broadcasts[0] === run) this.#broadcasts.shift();
    this.#advanceDispatched();
  }

  #advanceDispatched(): void {
    const [next] = this.#broadcasts;
    const offered = Math.min(
      this.#enqueuedUpTo,
      next === undefined ? Infinity : next.entries[0].position - 1,
    );
    this.dispatchedUpTo = asPosition(Math.max(this.dispatchedUpTo, offered));
  }

  #observe({ committedAt }: AddressRun): void {
    this.node.metrics.commitToSocketSeconds.observe((performance.now() - committedAt) / 1_000);
  }
}

const each = <Member extends HubMember>(known: Member | Set<Member>): Iterable<Member> =>
  known instanceof Set ? known : [known];

/** Cut where the address changes: what follows one another at the same address goes to the same connections, at once. */
function* runsOf(entries: readonly Entry[]): Generator<readonly [Entry, ...Entry[]]> {
  let run: [Entry, ...Entry[]] | undefined;
  for (const entry of entries) {
    if (run?.[0].address === entry.address) run.push(entry);
    else {
      if (run !== undefined) yield run;
      run = [entry];
    }
  }
  if (run !== undefined) yield run;
}
