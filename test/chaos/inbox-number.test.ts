import { setImmediate } from 'node:timers/promises';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { randomUUIDv7 } from 'node:crypto';
import { Subject } from 'rxjs';
import { Bus } from '../../src/cluster/bus.ts';
import type { TenantId, Topic } from '../../src/core/identifiers.ts';
import type { Notification, Recipient } from '../../src/core/notification.ts';
import { asPosition, START, type Position } from '../../src/core/position.ts';
import { gapFrame, inboxFrame, notificationFrame, type Frame } from '../../src/delivery/frames.ts';
import { InboxFeed } from '../../src/delivery/inbox-feed.ts';
import { InboxWatch } from '../../src/delivery/inbox-watch.ts';
import { Inbox } from '../../src/inbox/inbox.ts';
import { InboxStore, type InboxReader } from '../../src/inbox/inbox.store.ts';
import { snapshotJson, type ItemMark, type Snapshot } from '../../src/inbox/snapshot.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import {
  ListOnStream,
  NumberOfAnswers,
  NumberOnStream,
  type Numbers,
  type WholeList,
} from '../support/inbox-client.ts';
import { notification } from '../support/notifications.ts';
import { ReceiptsBench, topic, userId } from '../support/receipts.ts';
import { testConfig } from '../support/settings.ts';

/*
 * One user, two devices with streams and one without, two nodes. The network, the bus and the clock are steps of a history:
 * answers and events come late, in another order or never, hints are lost and doubled. Whatever the history, at rest every
 * device shows the number and the list that a count of every notification by itself has.
 *
 * Real are the statements, what the nodes do with them (`Inbox`, `InboxFeed`, `InboxWatch`), the frames, and the client of
 * test/support/inbox-client.ts. `Connection` below stands for the one of src/delivery: it delivers when the history says so.
 */

/** `TIDINGS_HISTORIES=5000 TIDINGS_SEED=1 npm run test:all -- test/chaos/inbox-number.test.ts` plays for an hour. */
const HISTORIES = Number(process.env['TIDINGS_HISTORIES'] ?? 120);
const SEED = process.env['TIDINGS_SEED'];
jest.setTimeout(180_000 + 5_000 * HISTORIES);

const HOUR_MS = 3_600_000;
const ALICE = userId('alice');
const [NEWS, SPORT] = [topic('news'), topic('sport')];
const TOPICS: readonly (readonly Topic[])[] = [[], [NEWS], [SPORT], [NEWS, SPORT]];
const RECIPIENTS: readonly Recipient[] = [
  { user: ALICE },
  { user: userId('bob') },
  { topic: NEWS },
  { topic: SPORT },
  { everyone: true },
];

/** A bus that says nothing by itself: what is said goes to the network of the history. */
class ModelBus extends Bus {
  readonly heard = new Subject<string>();
  override readonly inboxes = this.heard.asObservable();
  said: (key: string) => void = () => undefined;

  override announceInboxes(keys: readonly string[]): void {
    for (const key of keys) this.said(key);
  }
}

interface Node {
  readonly bus: ModelBus;
  readonly inbox: Inbox;
  readonly feed: InboxFeed;
}

let bench: ReceiptsBench;
let nodes: Node[];

beforeAll(async () => {
  bench = await ReceiptsBench.open();
  // So that what is for a topic or everyone expires 5 s late on every stream.
  jest.spyOn(Math, 'random').mockReturnValue(0.5);
  nodes = [];
  for (const { pools, partitions } of [bench.node(), bench.node()]) {
    await partitions.ensureCovering(START);
    const config = testConfig({ LOG_POLL_MS: HOUR_MS });
    const metrics = new Metrics();
    const store = new InboxStore(pools.tenant, partitions);
    const inbox = new Inbox(store, metrics);
    const bus = new ModelBus(metrics, config);
    const feed = new InboxFeed(inbox, store, bus, config);
    feed.onModuleInit();
    nodes.push({ bus, inbox, feed });
  }
  // What comes together is told together: that pause is a step of the history.
  jest.useFakeTimers({
    doNotFake: [
      'Date',
      'performance',
      'nextTick',
      'queueMicrotask',
      'setImmediate',
      'clearImmediate',
      'setInterval',
      'clearInterval',
    ],
  });
});
afterAll(async () => {
  jest.useRealTimers();
  jest.restoreAllMocks();
  for (const { feed } of nodes) await feed.onModuleDestroy();
  await bench.close();
});

/* What happens. `device` 0 and 1 have streams, 2 has none. A share, 0 to 99, chooses among what there is. */

type Step =
  | { kind: 'publish'; to: number; inbox: boolean; hours: number | null; skip: number }
  | {
      kind: 'mark';
      device: number;
      node: number;
      axis: 'seenUpTo' | 'readUpTo' | 'archivedUpTo' | 'items';
      upTo: number;
      items: { share: number; read: boolean | undefined; archived: boolean | undefined }[];
      knows: boolean;
    }
  | { kind: 'ask'; node: number }
  | { kind: 'answer'; share: number; isLost: boolean }
  | { kind: 'hint'; share: number; fate: 'heard' | 'doubled' | 'lost' }
  | { kind: 'compare'; node: number }
  | { kind: 'open'; device: number; node: number; resume: 'exact' | 'undelivered' | 'latest' }
  | { kind: 'close'; device: number }
  | { kind: 'deliver'; device: number; most: number; fromMemory: boolean }
  | { kind: 'fill'; device: number; isFull: boolean }
  | { kind: 'read'; device: number; share: number; fails: boolean }
  | { kind: 'pause' }
  | { kind: 'tick'; isLate: boolean }
  | { kind: 'hour' }
  | { kind: 'renew'; device: number; topics: number }
  | { kind: 'retain'; by: number }
  | { kind: 'erase' }
  | { kind: 'restore'; wasAhead: boolean }
  | { kind: 'rest' };

const share = fc.nat({ max: 99 });
const anyDevice = fc.nat({ max: 2 });
const streaming = fc.nat({ max: 1 });
const onNode = fc.nat({ max: 1 });
const rarely = fc.nat({ max: 9 }).map((n) => n === 0);
const maybe = fc.option(fc.boolean(), { nil: undefined });

const step = <Kind extends Step['kind']>(
  weight: number,
  kind: Kind,
  fields: {
    [Field in keyof Omit<Extract<Step, { kind: Kind }>, 'kind'>]: fc.Arbitrary<
      Extract<Step, { kind: Kind }>[Field]
    >;
  },
) => ({
  weight,
  arbitrary: fc.record({ kind: fc.constant(kind), ...fields }) as unknown as fc.Arbitrary<Step>,
});

const anyStep = fc.oneof(
  step(8, 'publish', {
    to: fc.nat({ max: RECIPIENTS.length - 1 }),
    inbox: rarely.map((is) => !is),
    hours: fc.option(fc.integer({ min: 1, max: 2 }), { nil: null, freq: 2 }),
    skip: fc.nat({ max: 1 }),
  }),
  step(8, 'mark', {
    device: anyDevice,
    node: onNode,
    axis: fc.constantFrom('seenUpTo', 'readUpTo', 'archivedUpTo', 'items', 'items'),
    upTo: share,
    items: fc.uniqueArray(fc.record({ share, read: maybe, archived: maybe }), {
      minLength: 1,
      maxLength: 2,
      selector: (item) => item.share,
    }),
    knows: fc.boolean(),
  }),
  step(1, 'ask', { node: onNode }),
  step(5, 'answer', { share, isLost: rarely }),
  step(5, 'hint', { share, fate: fc.constantFrom('heard', 'heard', 'doubled', 'lost') }),
  step(1, 'compare', { node: onNode }),
  step(1, 'open', {
    device: streaming,
    node: onNode,
    resume: fc.constantFrom('exact', 'exact', 'undelivered', 'latest'),
  }),
  step(1, 'close', { device: streaming }),
  step(8, 'deliver', { device: streaming, most: fc.integer({ min: 1, max: 4 }), fromMemory: fc.boolean() }),
  step(2, 'fill', { device: streaming, isFull: fc.boolean() }),
  step(8, 'read', { device: streaming, share, fails: rarely }),
  step(4, 'pause', {}),
  step(2, 'tick', { isLate: fc.boolean() }),
  step(2, 'hour', {}),
  step(2, 'renew', { device: streaming, topics: fc.nat({ max: TOPICS.length - 1 }) }),
  step(2, 'retain', { by: fc.integer({ min: 1, max: 8 }) }),
  step(4, 'rest', {}),
);

interface History {
  readonly topics: readonly number[];
  readonly steps: readonly Step[];
  /** Hints get lost; else streams are right without being compared with the database. */
  readonly isLossy: boolean;
  /** What happens when the user is erased, or the database goes back to where it was before `between`. */
  readonly upset: Extract<Step, { kind: 'erase' | 'restore' }> | null;
  readonly between: readonly Step[];
  readonly after: readonly Step[];
  /** What is late comes in this order at the end. */
  readonly isReversed: boolean;
  /** The last that happens is a mark of the device without a stream. */
  readonly isMarkedLast: boolean;
}

const anyHistory: fc.Arbitrary<History> = fc.record({
  topics: fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 3 }), fc.nat({ max: 3 })),
  steps: fc.array(anyStep, { minLength: 1, maxLength: 25, size: 'max' }),
  isLossy: fc.boolean(),
  upset: fc.constantFrom(
    null,
    { kind: 'erase' },
    { kind: 'restore', wasAhead: false },
    { kind: 'restore', wasAhead: true },
  ),
  between: fc.array(anyStep, { maxLength: 8, size: 'max' }),
  after: fc.array(anyStep, { maxLength: 8, size: 'max' }),
  isReversed: fc.boolean(),
  isMarkedLast: fc.boolean(),
});

/** The data of an event, as a client gets it. */
const dataOf = (frame: Frame) => JSON.parse(/^data: (.*)$/m.exec(String(frame))?.[1] ?? '');

const pick = <Item>(items: readonly Item[], part: number): Item | undefined =>
  items[Math.floor((part / 100) * items.length)];
const take = <Item>(items: Item[], part: number): Item | undefined =>
  items.splice(Math.floor((part / 100) * items.length), 1)[0];

class DatabaseIsAway extends Error {}

/** A read of the inbox whose statement is done, and whose answer is on its way to the node. */
interface Held {
  readonly executed: Promise<Snapshot>;
  resolve(snapshot: Snapshot): void;
  reject(error: unknown): void;
}

/** A device with a stream. */
class Streaming {
  readonly number = new NumberOnStream();
  readonly list: ListOnStream;
  connection: Connection | undefined;
  /** Up to here it has everything. */
  lastId = START;

  constructor(
    readonly run: Run,
    public topics: readonly Topic[],
  ) {
    this.list = new ListOnStream((asked) => {
      const reader = { user: ALICE, topics: this.topics };
      run.answerLater(run.list(reader), (list) => this.list.loaded(asked, list));
    });
  }

  open(at: Node, resume: 'exact' | 'undelivered' | 'latest'): void {
    this.close();
    const { head, floor } = this.run;
    const from = resume === 'latest' ? head : resume === 'exact' ? this.lastId : START;
    this.list.hasToken(this.topics.join(' '));
    this.list.opened(from < floor ? 'gap' : resume, this.run.now());
    this.connection = new Connection(this, at, asPosition(Math.max(from, floor)), head);
  }

  close(): void {
    if (this.connection === undefined) return;
    this.connection.close();
    this.connection = undefined;
    this.list.closed(this.run.now());
  }
}

/** A stream, as src/delivery/connection.ts has it. */
class Connection {
  readonly watch: InboxWatch;
  readonly held: Held[] = [];
  isFull = false;
  #isCaughtUp = false;
  /** It has not heard of everything by itself: hints were lost, or nothing told it yet what retention took. */
  missedHint = false;
  knownFloor: Position;
  /** What retention took before the first event of this connection, its client still lists. */
  listedFrom: Position | undefined;

  constructor(
    readonly device: Streaming,
    readonly node: Node,
    public position: Position,
    readonly target: Position,
  ) {
    const { run } = device;
    this.knownFloor = run.floor;
    this.watch = new InboxWatch({
      read: () => this.#read(),
      hasRoom: () => !this.isFull,
      write: (told) => {
        this.listedFrom ??= told.snapshot.floor;
        const event = dataOf(inboxFrame(told));
        device.number.told(event);
        device.list.told(event);
      },
      trouble: (error) => {
        if (!(error instanceof DatabaseIsAway)) run.faults.push(error);
      },
    });
    node.feed.join(run.tenantId, ALICE, this.watch);
    this.deliver(0, false);
  }

  /** `fromMemory`: what retention has taken meanwhile is still there. */
  deliver(most: number, fromMemory: boolean): void {
    const { run, number, list } = this.device;
    if (this.isFull) return;
    if (!fromMemory && run.floor > this.position) {
      list.gap(dataOf(gapFrame(this.position, run.floor)));
      this.#move(run.floor);
      this.knownFloor = run.floor;
      this.watch.due();
    }
    const left = run.log.filter(({ position, to }) => position > this.position && this.#isFor(to));
    for (const one of left.slice(0, most)) {
      this.#move(one.position);
      if (one.expiresAt !== null && one.expiresAt <= run.now()) continue;
      const arrival = {
        ...dataOf(notificationFrame(one)),
        position: String(one.position),
      };
      number.arrived(arrival);
      list.arrived(arrival);
    }
    if (most < left.length) return;
    this.#move(run.head);
    if (this.#isCaughtUp) return;
    this.#isCaughtUp = true;
    this.watch.begin();
  }

  renew(topics: readonly Topic[]): void {
    this.device.topics = topics;
    this.device.list.hasToken(topics.join(' '));
    this.watch.renewed();
  }

  close(): void {
    this.watch.close();
    this.node.feed.leave(this.device.run.tenantId, ALICE, this.watch);
  }

  #isFor(to: Recipient): boolean {
    if ('topic' in to) return this.device.topics.includes(to.topic);
    return 'everyone' in to || to.user === ALICE;
  }

  #move(position: Position): void {
    this.position = asPosition(Math.max(this.position, position));
    this.device.lastId = this.position;
  }

  /** The statement runs at once: what it sees is as old as it can be. */
  #read(): Promise<Snapshot> {
    const { run, topics } = this.device;
    const reader = { user: ALICE, topics, head: this.target };
    const executed = run.execute(
      this.node.inbox.snapshot(run.tenantId, reader).then((found) => run.shown(found)),
    );
    return new Promise((resolve, reject) => void this.held.push({ executed, resolve, reject }));
  }
}

class Run {
  readonly log: Notification[] = [];
  readonly streaming: readonly Streaming[];
  readonly polling = new NumberOfAnswers();
  readonly #pollingTopics: readonly Topic[];
  readonly #answers: (() => void)[] = [];
  readonly #hints: { to: Node; key: string }[] = [];
  readonly #executing = new Set<Promise<unknown>>();
  readonly faults: unknown[] = [];
  head = START;
  floor = START;
  #hours = 0;
  #copy: { readonly users: object[]; readonly marks: object[] } | undefined;

  constructor(
    readonly tenantId: TenantId,
    private readonly history: History,
  ) {
    const [first = [], second = [], third = []] = history.topics.map((n) => TOPICS[n]);
    this.streaming = [new Streaming(this, first), new Streaming(this, second)];
    this.#pollingTopics = third;
    for (const { bus } of nodes)
      bus.said = (key) => {
        for (const to of nodes) if (to.bus !== bus) this.#hints.push({ to, key });
      };
  }

  /** The time of the history, ms since 1970. */
  now(): number {
    return Date.now() + this.#hours * HOUR_MS;
  }

  /** What the database says, in the time of the history. */
  shown(snapshot: Snapshot): Snapshot {
    const shift = this.#hours * HOUR_MS;
    const { at, nextExpiry } = snapshot;
    return { ...snapshot, at: at + shift, nextExpiry: nextExpiry === null ? null : nextExpiry + shift };
  }

  async execute<Result>(work: Promise<Result>): Promise<Result> {
    this.#executing.add(work);
    try {
      return await work;
    } finally {
      this.#executing.delete(work);
    }
  }

  /** The statement runs now, and the answer comes when the history says so. */
  answerLater<Answer>(work: Promise<Answer>, come: (answer: Answer) => void): void {
    void this.execute(work).then(
      (answer) => void this.#answers.push(() => come(answer)),
      (error: unknown) => void this.faults.push(error),
    );
  }

  async list(reader: InboxReader): Promise<WholeList> {
    const [at] = nodes;
    if (at === undefined) throw new Error('there is no node');
    const before = asPosition(Number.MAX_SAFE_INTEGER);
    const shift = this.#hours * HOUR_MS;
    const { items, snapshot } = await at.inbox.list(this.tenantId, reader, {
      filter: 'all',
      type: undefined,
      before,
      limit: 200,
    });
    return {
      ...snapshotJson(this.shown(snapshot)),
      items: items.map(({ id, position, expiresAt, seen, readAt }) => ({
        id,
        position: String(position),
        expiresAt: expiresAt === null ? null : new Date(expiresAt.getTime() + shift).toISOString(),
        seen,
        readAt: readAt === null ? null : readAt.toISOString(),
      })),
    };
  }

  /** Until nothing runs any more that is not held back. */
  async #settle(): Promise<void> {
    do {
      await Promise.allSettled(this.#executing);
      await setImmediate();
    } while (this.#executing.size > 0);
  }

  async apply(each: Step): Promise<void> {
    await this.#do(each);
    await this.#settle();
  }

  async #do(each: Step): Promise<void> {
    switch (each.kind) {
      case 'publish':
        return await this.#publish(each);
      case 'mark':
        return this.#mark(each);
      case 'ask':
        return this.#poll(each.node);
      case 'answer': {
        const come = take(this.#answers, each.share);
        if (!each.isLost) come?.();
        return;
      }
      case 'hint':
        return this.#hint(each);
      case 'compare':
        return await nodes[each.node]?.feed.compare();
      case 'pause':
        jest.advanceTimersByTime(100);
        return;
      case 'tick':
        return this.#tick(each.isLate);
      case 'hour':
        return await this.#passHour();
      case 'retain':
        this.floor = asPosition(Math.min(this.head, this.floor + each.by));
        return await bench.setStream(this.tenantId, { floor: this.floor });
      case 'erase':
        this.#closeAll();
        return await this.#replace({ users: [], marks: [] });
      case 'rest':
        return await this.#rest();
      case 'restore':
        return await this.#restore(each.wasAhead);
      default:
        return await this.#doToStream(each);
    }
  }

  async #doToStream(
    each: Extract<Step, { kind: 'open' | 'close' | 'deliver' | 'fill' | 'read' | 'renew' }>,
  ): Promise<void> {
    const at = this.streaming[each.device];
    const connection = at?.connection;
    if (each.kind === 'open') {
      const on = nodes[each.node];
      if (on !== undefined) at?.open(on, each.resume);
    } else if (each.kind === 'close') at?.close();
    else if (connection === undefined) return;
    else if (each.kind === 'deliver') connection.deliver(each.most, each.fromMemory);
    else if (each.kind === 'renew') connection.renew(TOPICS[each.topics] ?? []);
    else if (each.kind === 'fill') {
      connection.isFull = each.isFull;
      if (!each.isFull) connection.watch.look();
    } else {
      const held = take(connection.held, each.share);
      const snapshot = await held?.executed;
      if (each.fails) held?.reject(new DatabaseIsAway());
      else if (snapshot !== undefined) held?.resolve(snapshot);
    }
  }

  async #publish({ to, inbox, hours, skip }: Extract<Step, { kind: 'publish' }>): Promise<void> {
    const recipient = RECIPIENTS[to] ?? { everyone: true };
    const expiresAt = hours === null ? null : this.now() + hours * HOUR_MS;
    const one = notification(this.head + 1 + skip, { id: randomUUIDv7(), to: recipient, inbox, expiresAt });
    await bench.database.query(
      `insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher, expires_at, inbox)
       values ($1, $2, $3, $4, $5, 't', '1', 1, 'p', $6, $7)`,
      [
        this.tenantId,
        one.position,
        one.id,
        'user' in recipient ? recipient.user : null,
        'topic' in recipient ? recipient.topic : null,
        expiresAt === null ? null : new Date(expiresAt - this.#hours * HOUR_MS),
        inbox,
      ],
    );
    await bench.setStream(this.tenantId, { head: one.position });
    this.log.push(one);
    this.head = one.position;
  }

  #mark({ device: n, node: at, axis, upTo, items, knows }: Extract<Step, { kind: 'mark' }>): void {
    const said = new Map<string, ItemMark>();
    if (axis === 'items')
      for (const { share: part, read, archived } of items) {
        const id = pick(this.log, part)?.id;
        if (id !== undefined && (read !== undefined || archived !== undefined))
          said.set(id, { id, read, archived });
      }
    const position = axis === 'items' ? undefined : { [axis]: pick(this.log, upTo)?.position ?? START };
    const known = n === 2 ? this.polling.numbers?.revision : this.streaming[n]?.number.revision;
    this.#say(n, at, { ...position, items: [...said.values()], revision: knows ? known : undefined });
  }

  #say(
    n: number,
    at: number,
    said: { items: ItemMark[]; revision?: string | undefined } & Partial<
      Record<'seenUpTo' | 'readUpTo' | 'archivedUpTo', Position>
    >,
  ): void {
    const from = this.streaming[n];
    const marking = {
      user: ALICE,
      topics: from?.topics ?? this.#pollingTopics,
      seenUpTo: said.seenUpTo,
      readUpTo: said.readUpTo,
      archivedUpTo: said.archivedUpTo,
      items: said.items,
      revision: said.revision === undefined ? undefined : asPosition(Number(said.revision)),
    };
    const on = nodes[at];
    if (on !== undefined)
      this.#answered(
        n,
        on.inbox.mark(this.tenantId, marking).then(({ snapshot }) => snapshot),
      );
  }

  #poll(at: number): void {
    const on = nodes[at];
    const reader = { user: ALICE, topics: this.#pollingTopics };
    if (on !== undefined) this.#answered(2, on.inbox.snapshot(this.tenantId, reader));
  }

  #answered(n: number, snapshot: Promise<Snapshot>): void {
    const numbers = snapshot.then((found): Numbers => snapshotJson(this.shown(found)));
    this.answerLater(numbers, (answer) => (this.streaming[n]?.number ?? this.polling).answered(answer));
  }

  #hint({ share: part, fate }: Extract<Step, { kind: 'hint' }>): void {
    const hint = take(this.#hints, part);
    if (hint === undefined) return;
    const isLost = fate === 'lost' && this.history.isLossy;
    if (!isLost) hint.to.bus.heard.next(hint.key);
    if (fate === 'doubled') this.#hints.push(hint);
    for (const { connection } of this.streaming)
      if (isLost && connection?.node === hint.to) connection.missedHint = true;
  }

  #tick(isLate: boolean): void {
    const now = this.now() + (isLate ? 10_000 : 0);
    for (const { connection } of this.streaming) connection?.watch.look(now);
  }

  async #passHour(): Promise<void> {
    this.#hours += 1;
    await bench.database.query(
      `update notifications set expires_at = expires_at - interval '1 hour' where tenant_id = $1 and expires_at is not null`,
      [this.tenantId],
    );
  }

  #closeAll(): void {
    for (const each of this.streaming) each.close();
    this.#hints.length = 0;
  }

  /** The inbox is as it was backed up, and `log:advance` has been run. `wasAhead`: the clock of the database was, by an hour. */
  async #restore(wasAhead: boolean): Promise<void> {
    if (this.#copy === undefined) return;
    this.#closeAll();
    await this.#passHour();
    await this.#replace(this.#copy);
    if (wasAhead)
      await bench.database.query(
        `update inbox_users set revision = ahead, changes = '[]', changes_since = ahead
         from position_at(now() + interval '1 hour') as ahead where tenant_id = $1`,
        [this.tenantId],
      );
    await bench.database.query(
      `update tenant_logs set inbox_revision = position_at(now() + $2::interval) where tenant_id = $1`,
      [this.tenantId, wasAhead ? '2 hours' : '0'],
    );
  }

  async #replace({ users, marks }: { users: object[]; marks: object[] }): Promise<void> {
    for (const [table, rows] of Object.entries({ inbox_users: users, inbox_marks: marks })) {
      await bench.database.query(`delete from ${table} where tenant_id = $1`, [this.tenantId]);
      await bench.database.query(
        `insert into ${table} select * from json_populate_recordset(null::${table}, $1)`,
        [JSON.stringify(rows)],
      );
    }
    // It takes more than a millisecond.
    await bench.database.query('select pg_sleep(0.002)');
  }

  /** Both streams are open. */
  begin(): void {
    for (const [n, each] of this.streaming.entries()) {
      const on = nodes[n];
      if (each.connection === undefined && on !== undefined) each.open(on, 'exact');
    }
  }

  /** Has everything come that nothing was said of by hand: whoever missed nothing shows what is right. */
  async #rest(): Promise<void> {
    this.begin();
    for (const { connection } of this.streaming) if (connection !== undefined) connection.isFull = false;
    this.#poll(0);
    await this.#quieten();
    await this.#check(({ missedHint, knownFloor }) => !missedHint && knownFloor === this.floor);
  }

  /** What a restore brings back. */
  async backUp(): Promise<void> {
    const [users = [], marks = []] = await Promise.all(
      ['inbox_users', 'inbox_marks'].map((table) =>
        bench.database.query<object & Record<string, unknown>>(
          `select * from ${table} where tenant_id = $1`,
          [this.tenantId],
        ),
      ),
    );
    this.#copy = { users, marks };
  }

  /** At the end the inboxes are compared with the database, too. */
  async finish(): Promise<void> {
    await this.#rest();
    for (const { feed } of nodes) await feed.compare();
    this.#poll(0);
    await this.#quieten();
    await this.#check(() => true);
    // What it is answered is as good as what it asks for.
    if (this.history.isMarkedLast)
      this.#say(2, 0, { readUpTo: pick(this.log, 50)?.position ?? START, items: [] });
    else this.#poll(0);
    await this.#quieten();
    await this.#check(() => !this.history.isLossy);
  }

  async #quieten(): Promise<void> {
    // Twice: what a tick finds out is read, and what that says loads the list.
    for (let quiet = 0; quiet < 2;) {
      await this.#settle();
      const before = this.#answers.length + this.#hints.length;
      while (this.#hints.length > 0)
        this.#hint({ kind: 'hint', share: 0, fate: this.history.isLossy ? 'lost' : 'heard' });
      for (const { connection } of this.streaming) connection?.deliver(Infinity, false);
      let reads = 0;
      for (const { connection } of this.streaming) {
        const held = connection?.held.splice(0) ?? [];
        reads += held.length;
        for (const each of this.history.isReversed ? held.toReversed() : held) {
          each.resolve(await each.executed);
          await setImmediate();
        }
      }
      const answers = this.#answers.splice(0);
      for (const come of this.history.isReversed ? answers.toReversed() : answers) come();
      await this.#settle();
      jest.advanceTimersByTime(100);
      this.#tick(true);
      await this.#settle();
      quiet = before + reads === 0 ? quiet + 1 : 0;
    }
    if (this.faults.length > 0) throw this.faults[0];
  }

  async #check(isToBeRight: (connection: Connection) => boolean): Promise<void> {
    const { unread, unseen } = this.polling.numbers ?? {};
    expect({ unread, unseen }).toEqual(numbersOf(await this.#count(this.#pollingTopics)));
    for (const { connection, number, list, topics } of this.streaming) {
      if (connection === undefined || !isToBeRight(connection)) continue;
      const there = await this.#count(topics);
      expect(number.at(this.now())).toEqual(numbersOf(there));
      expect(number.isSettled).toBe(true);
      // What is read it may list for longer than it is kept.
      const from = connection.listedFrom ?? this.floor;
      const lines = list
        .at(this.now())
        .filter(({ position, seen, read }) => position > (seen && read ? this.floor : from));
      expect(lines.map(({ id, seen, read }) => ({ id, seen, read }))).toEqual(there);
    }
  }

  /** What is in the inbox and not archived, newest first: looks at each. */
  async #count(topics: readonly Topic[]): Promise<{ id: string; seen: boolean; read: boolean }[]> {
    return await bench.database.query(
      `select n.id, n.position <= u.seen_up_to or m.read is not null as seen, coalesce(m.read, n.position <= u.read_up_to) as read
       from tenant_logs l
       join inbox_users u on u.tenant_id = l.tenant_id and u.user_id = $2
       join notifications n on n.tenant_id = l.tenant_id
       left join inbox_marks m on m.tenant_id = l.tenant_id and m.user_id = $2 and m.position = n.position
       where l.tenant_id = $1 and n.inbox and n.position > l.floor and (n.expires_at is null or n.expires_at > now())
         and (n.user_id = $2 or (n.user_id is null and n.position > u.since and (n.topic is null or n.topic = any($3))))
         and not coalesce(m.archived, n.position <= u.archived_up_to)
       order by n.position desc`,
      [this.tenantId, ALICE, topics],
    );
  }

  end(): void {
    this.#closeAll();
  }
}

const numbersOf = (there: readonly { seen: boolean; read: boolean }[]) => ({
  unread: there.filter(({ read }) => !read).length,
  unseen: there.filter(({ seen }) => !seen).length,
});

test('whatever happens, at rest every device shows the number and the list that are right', async () => {
  await fc.assert(
    fc.asyncProperty(anyHistory, async (history) => {
      const run = new Run(await bench.tenant({ head: 0 }), history);
      try {
        run.begin();
        for (const each of history.steps) await run.apply(each);
        if (history.upset !== null) {
          await run.apply({ kind: 'rest' });
          await run.backUp();
          for (const each of history.between) await run.apply(each);
          await run.apply({ kind: 'rest' });
          await run.apply(history.upset);
        }
        for (const each of history.after) await run.apply(each);
        await run.finish();
      } finally {
        run.end();
      }
    }),
    SEED === undefined ? { numRuns: HISTORIES } : { numRuns: HISTORIES, seed: Number(SEED) },
  );
});
