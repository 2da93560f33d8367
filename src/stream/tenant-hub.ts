import type { TenantId } from '../identifiers.ts';
import type { Batch } from '../log/notification.ts';
import { asPosition, type Position } from '../log/position.ts';
import { Slice } from '../slice.ts';
import type { StreamNode } from './stream-node.ts';
import { Tail, userOf, type Address, type Entry } from './tail.ts';

/** A connection as its hub sees it. */
export interface HubMember {
  readonly addresses: readonly Address[];
  /** Takes of these entries, which are in the order of the log, those that it has not seen, while it is live. */
  deliver(entries: readonly Entry[]): void;
  fallBehind(position: Position): void;
  readOn(): Promise<void>;
}

/** What a hub needs of the node that it is on. */
export type HubNode = Pick<StreamNode, 'metrics' | 'readAfter' | 'trim' | 'databaseTrouble'>;

/** The streams of one tenant on this node, and the tail of the log that they live from. It exists while there is one. */
export class TenantHub<Member extends HubMember> {
  readonly tail: Tail;
  /** Every live connection was offered everything up to here. */
  settled: Position;
  readonly connections = new Set<Member>();
  /** Of most addresses, those of users, there is one: a set for each would be a twentieth of what a stream keeps. */
  readonly #recipients = new Map<Address, Member | Set<Member>>();
  readonly #queue: { entries: readonly Entry[]; head: Position; committedAt: number }[] = [];
  #dispatching = false;
  #healing: Promise<void> | undefined;

  constructor(
    readonly tenantId: TenantId,
    head: Position,
    private readonly node: HubNode,
  ) {
    this.tail = new Tail(head);
    this.settled = head;
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
    this.#queue.push({ entries, head: batch.head, committedAt: batch.committedAt });
    void this.#dispatch();
  }

  /** Drops from memory what is for users of whom `isGone` holds, up to `position`. */
  async forget(isGone: (user: string) => boolean, position: Position): Promise<void> {
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
      if (this.tail.head === before) throw new Error('the log ends before a position that was seen in it');
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
      committedAt: performance.now(),
    });
  }

  #restart(head: Position): void {
    if (head <= this.tail.head) return;
    this.tail.restart(head);
    for (const connection of this.connections) {
      connection.fallBehind(this.settled);
      void connection.readOn();
    }
    this.#queue.length = 0;
    this.settled = head;
  }

  async #dispatch(): Promise<void> {
    if (this.#dispatching) return;
    this.#dispatching = true;
    // A broadcast to thousands must not hold up single users, nor other tenants.
    const slice = new Slice();
    for (let batch = this.#queue.shift(); batch !== undefined; batch = this.#queue.shift()) {
      for (const entries of runsOf(batch.entries)) {
        const connections = this.#recipients.get(entries[0].address);
        if (connections === undefined) continue;
        // Whoever becomes live while this waits is visited too, and knows by its position what it has.
        for (const connection of each(connections)) {
          connection.deliver(entries);
          if (slice.isOver) await slice.next();
        }
        this.node.metrics.commitToSocketSeconds.observe((performance.now() - batch.committedAt) / 1_000);
      }
      this.settled = asPosition(Math.max(this.settled, batch.head));
    }
    this.#dispatching = false;
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
