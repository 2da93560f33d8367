import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { randomInt, randomUUID, randomUUIDv7 } from 'node:crypto';
import { InFlightTransactionsStore } from '../../src/cluster/change-feed.ts';
import { digestOf, type TenantId } from '../../src/core/identifiers.ts';
import { asPosition, POSITIONS_PER_MS, type Position } from '../../src/core/position.ts';
import { InboxStore, type Marked, type Marking } from '../../src/inbox/inbox.store.ts';
import type { Snapshot } from '../../src/inbox/snapshot.ts';
import { AppendStore } from '../../src/log/append.store.ts';
import { PARTITIONED, partitionName, rangeCovering } from '../../src/log/partitions.ts';
import { RetentionStore } from '../../src/maintenance/retention.store.ts';
import { MaintenancePool } from '../../src/postgres/pools.ts';
import { errorCode } from '../../src/postgres/errors.ts';
import type { Erasure } from '../../src/privacy/erasure.ts';
import { ErasureRegistryStore } from '../../src/privacy/erasure-registry.ts';
import { ErasureWorkerStore } from '../../src/privacy/erasure-worker.ts';
import { eventually } from '../support/eventually.ts';
import { draft } from '../support/notifications.ts';
import { openMaintenancePool } from '../support/pools.ts';
import { ReceiptsBench, topic, userId, type ReceiptsNode } from '../support/receipts.ts';

/*
 * Devices of two users speak at once, through two nodes, while there are publishes, an erasure or retention beside. At each
 * rest the numbers are those that plain SQL counts, one row for each notification and user, and what is stored is what the
 * calls leave in one of the orders in which they can have come.
 */

/** Of each race: `TIDINGS_RACES=10000 npm run test:all -- test/chaos/inbox-races.test.ts` plays for half an hour. */
const ROUNDS = Number(process.env['TIDINGS_RACES'] ?? 40);
jest.setTimeout(180_000 + 1_000 * ROUNDS);
/** Rounds that one tenant plays, so that what is counted stays small. */
const ROUNDS_OF_TENANT = 25;

const USERS = ['alice', 'bob'] as const;
type User = (typeof USERS)[number];
const TOPICS: Readonly<Record<User, readonly string[]>> = { alice: ['news', 'sport'], bob: ['news'] };
const reader = (user: User) => ({ user: userId(user), topics: TOPICS[user].map(topic) });

interface Node extends ReceiptsNode {
  readonly inbox: InboxStore;
  readonly append: AppendStore;
}

let bench: ReceiptsBench;
let nodes: readonly [Node, Node];
let maintenance: MaintenancePool;

beforeAll(async () => {
  bench = await ReceiptsBench.open();
  const open = (): Node => {
    const node = bench.node();
    const { tenant } = node.pools;
    return { ...node, inbox: new InboxStore(tenant, node.partitions), append: new AppendStore(tenant) };
  };
  nodes = [open(), open()];
  maintenance = openMaintenancePool(bench.database);
  await nodes[0].partitions.ensureAhead();
});
afterAll(async () => {
  await maintenance.end();
  await bench.close();
});

const one = <Value>(values: readonly Value[]): Value => {
  const value = values[randomInt(values.length)];
  if (value === undefined) throw new Error('there is nothing to choose from');
  return value;
};
const chance = (percent: number): boolean => randomInt(100) < percent;
const anyNode = (): Node => one(nodes);
const range = (count: number): number[] => Array.from({ length: count }, (_, n) => n);

/* What is stored, and what calls make of it. */

interface MarkState {
  read: boolean | null;
  archived: boolean | null;
  /** Said in this round: later than what a call of this round that names a revision knew. */
  freshRead?: boolean;
  freshArchived?: boolean;
}

interface InboxState {
  seen: number;
  read: number;
  archived: number;
  marks: Record<string, MarkState>;
}

/** One call, with the positions of its items. */
interface Call {
  readonly marking: Marking;
  readonly positions: readonly number[];
}

/** An inbox after a call. */
function after(before: InboxState, { marking, positions }: Call): InboxState {
  const { seenUpTo = 0, readUpTo = 0, archivedUpTo = 0, items, revision } = marking;
  const { marks, ...upTo } = structuredClone(before);
  const keeps = (fresh: boolean | undefined) => revision !== undefined && fresh === true;
  upTo.seen = Math.max(upTo.seen, seenUpTo, readUpTo);
  upTo.read = Math.max(upTo.read, readUpTo);
  upTo.archived = Math.max(upTo.archived, archivedUpTo);
  for (const [position, mark] of Object.entries(marks)) {
    if (Number(position) <= readUpTo && mark.read === false && !keeps(mark.freshRead)) {
      mark.read = true;
      mark.freshRead = true;
    }
    if (Number(position) <= archivedUpTo && mark.archived === false && !keeps(mark.freshArchived)) {
      mark.archived = true;
      mark.freshArchived = true;
    }
  }
  for (const [index, { read, archived }] of items.entries()) {
    const position = positions[index] ?? 0;
    const mark: MarkState = marks[position] ?? { read: null, archived: null };
    if (read !== undefined && read !== (mark.read ?? (position <= upTo.read || null))) {
      mark.read = read;
      mark.freshRead = true;
    }
    if (archived !== undefined && archived !== (mark.archived ?? (position <= upTo.archived || null))) {
      mark.archived = archived;
      mark.freshArchived = true;
    }
    if (mark.read !== null || mark.archived !== null) marks[position] = mark;
  }
  return { ...upTo, marks };
}

function* ordersOf<Value>(values: readonly Value[]): Generator<readonly Value[]> {
  if (values.length === 0) yield [];
  for (const [index, value] of values.entries())
    for (const rest of ordersOf(values.toSpliced(index, 1))) yield [value, ...rest];
}

/** In one form, whatever the order of its marks. */
const textOf = ({ marks, ...upTo }: InboxState): string =>
  JSON.stringify([
    upTo.seen,
    upTo.read,
    upTo.archived,
    Object.entries(marks)
      .toSorted(([a], [b]) => Number(a) - Number(b))
      .map(([position, { read, archived }]) => [position, read, archived]),
  ]);

/** A tenant with two inboxes. */
class Game {
  private constructor(readonly tenantId: TenantId) {}

  static async begin(head = 1): Promise<Game> {
    const game = new Game(await bench.tenant({ head }));
    await anyNode().inbox.begin(
      game.tenantId,
      USERS.map((user) => ({ user: userId(user) })),
    );
    return game;
  }

  /** @returns the head behind it */
  async publish(node: Node, count = 1): Promise<Position> {
    const drafts = range(count).map(() =>
      draft({
        to: one([
          { user: userId('alice') },
          { user: userId('bob') },
          { topic: topic('news') },
          { topic: topic('sport') },
          { everyone: true } as const,
        ]),
        inbox: !chance(10),
      }),
    );
    const publications = [{ publisher: 'p', drafts, idempotency: undefined }];
    const appended = await node.append.append(this.tenantId, publications, randomUUIDv7(), 1_000_000);
    if (appended === undefined) throw new Error('there is no log');
    return appended.head;
  }

  /** What is in the inbox of a user, oldest first. */
  async items(user: User): Promise<{ id: string; position: number }[]> {
    return await bench.database.query<{ id: string; position: number }>(
      `select n.id, n.position from notifications n
       join tenant_logs l on l.tenant_id = n.tenant_id join inbox_users u on u.tenant_id = n.tenant_id and u.user_id = $2
       where n.tenant_id = $1 and n.position > l.floor and n.inbox
         and (n.user_id = $2 or (n.user_id is null and n.position > u.since and (n.topic is null or n.topic = any($3))))
       order by n.position`,
      [this.tenantId, user, TOPICS[user]],
    );
  }

  async snapshot(user: User): Promise<Snapshot> {
    const [snapshot] = await anyNode().inbox.snapshots(this.tenantId, [reader(user)]);
    if (snapshot === undefined) throw new Error(`${user} has no inbox`);
    return snapshot;
  }

  async state(user: User): Promise<InboxState> {
    const [row] = await bench.database.query<{ seen: number; read: number; archived: number }>(
      `select seen_up_to as seen, read_up_to as read, archived_up_to as archived from inbox_users
       where tenant_id = $1 and user_id = $2`,
      [this.tenantId, user],
    );
    if (row === undefined) throw new Error(`${user} has no inbox`);
    const marks = await bench.database.query<MarkState & { position: number }>(
      'select position, read, archived from inbox_marks where tenant_id = $1 and user_id = $2',
      [this.tenantId, user],
    );
    return { ...row, marks: Object.fromEntries(marks.map(({ position, ...mark }) => [position, mark])) };
  }

  /** The numbers are those of plain SQL, through each node. */
  async rest(): Promise<void> {
    const counted = await bench.database.query<{ user: User; unread: number; unseen: number }>(
      `select "user", count(*) filter (where not archived and not read)::int as unread,
         count(*) filter (where not archived and not seen)::int as unseen
       from (
         select u.user_id as "user", coalesce(m.read, n.position <= u.read_up_to) as read,
           m.read is not null or n.position <= u.seen_up_to as seen,
           coalesce(m.archived, n.position <= u.archived_up_to) as archived
         from inbox_users u
         join json_to_recordset($2) as r ("user" text, topics text[]) on r."user" = u.user_id
         join tenant_logs l on l.tenant_id = u.tenant_id
         join notifications n on n.tenant_id = u.tenant_id and n.position > l.floor and n.inbox
           and (n.user_id = u.user_id
             or (n.user_id is null and n.position > u.since and (n.topic is null or n.topic = any(r.topics))))
         left join inbox_marks m on m.tenant_id = u.tenant_id and m.user_id = u.user_id and m.position = n.position
         where u.tenant_id = $1
       ) looked
       group by "user"`,
      [this.tenantId, JSON.stringify(USERS.map((user) => ({ user, topics: TOPICS[user] })))],
    );
    for (const { inbox } of nodes) {
      const snapshots = await inbox.snapshots(this.tenantId, USERS.map(reader));
      for (const [index, user] of USERS.entries()) {
        const { unread = 0, unseen = 0 } = counted.find((row) => row.user === user) ?? {};
        expect({ user, ...snapshots[index] }).toMatchObject({ user, unread, unseen, exact: true });
      }
    }
  }
}

const nothing = { seenUpTo: undefined, readUpTo: undefined, archivedUpTo: undefined, items: [] };

/** A call by one device, which has seen the inbox up to `head` and knows `revision`. */
function anyCall(
  user: User,
  items: readonly { id: string; position: number }[],
  { position: head, revision }: Snapshot,
): Call {
  const said = { ...reader(user), ...nothing, revision: chance(50) ? revision : undefined };
  const some = items.length === 0 ? [] : [one(items)];
  const call = (what: Partial<Marking>): Call => ({ marking: { ...said, ...what }, positions: [] });
  const named = (what: { read?: boolean; archived?: boolean }): Call => ({
    marking: { ...said, items: some.map(({ id }) => ({ id, ...what })) },
    positions: some.map(({ position }) => position),
  });
  return one([
    () => call({ readUpTo: head }),
    () => call({ readUpTo: head }),
    () => call({ seenUpTo: head }),
    () => call({ archivedUpTo: some[0] === undefined ? head : asPosition(some[0].position) }),
    () => named({ read: false }),
    () => named({ read: false }),
    () => named({ read: true }),
    () => named({ archived: chance(50) }),
    () => named({ read: chance(50), archived: chance(50) }),
  ])();
}

const stored = (results: readonly (Marked | 'no_inbox')[]): void => {
  for (const result of results) expect(result).toEqual({ changed: expect.any(Boolean), unknown: [] });
};

/** Plays rounds; each begins and ends at rest. */
async function play(round: (game: Game, n: number) => Promise<void>): Promise<void> {
  for (let n = 0; n < ROUNDS;) {
    const game = await Game.begin();
    for (const end = Math.min(ROUNDS, n + ROUNDS_OF_TENANT); n < end; n += 1) {
      await round(game, n);
      await game.rest();
    }
  }
}

test('whatever devices say at once is stored as if it were said in some order', async () => {
  await play(async (game) => {
    await game.publish(anyNode(), 1 + randomInt(3));
    const before = await Promise.all(USERS.map((user) => game.state(user)));
    const calls: Call[] = [];
    for (const user of USERS) {
      const [items, snapshot] = [await game.items(user), await game.snapshot(user)];
      calls.push(...range(3).map(() => anyCall(user, items, snapshot)));
    }
    // Each request has both users, in either order, so that the locks of two requests cross.
    const requests = range(3).map((n) => {
      const both = [calls[n], calls[3 + n]].filter((call) => call !== undefined);
      return chance(50) ? both : both.toReversed();
    });
    await Promise.all(
      requests.map(async (request, n) =>
        stored(
          await (nodes[n % 2] ?? nodes[0]).inbox.mark(
            game.tenantId,
            request.map(({ marking }) => marking),
          ),
        ),
      ),
    );
    for (const [index, user] of USERS.entries()) {
      const from = before[index];
      if (from === undefined) throw new Error('every user has an inbox');
      const own = calls.filter(({ marking }) => marking.user === user);
      const possible = new Set([...ordersOf(own)].map((order) => textOf(order.reduce(after, from))));
      const now = textOf(await game.state(user));
      expect({ before: textOf(from), said: own, now: possible.has(now) ? 'possible' : now }).toMatchObject({
        now: 'possible',
      });
    }
  });
});

test('what is published is marked by whoever is told of it, and what comes later stays new', async () => {
  await play(async (game) => {
    const [user] = [one(USERS)];
    const before = await game.state(user);
    const told: Position[] = [];
    const publishes = range(3).map(async (n) => {
      const head = await game.publish(nodes[n % 2] ?? nodes[0]);
      told.push(head);
      const [results, counts] = [
        await anyNode().inbox.mark(game.tenantId, [
          { ...reader(user), ...nothing, [n === 2 ? 'seenUpTo' : 'readUpTo']: head, revision: undefined },
        ]),
        await game.snapshot(user),
      ];
      stored(results);
      expect(counts.position).toBeGreaterThanOrEqual(head);
      expect(n === 2 ? counts.seenUpTo : counts.readUpTo).toBeGreaterThanOrEqual(head);
      return { head, reads: n !== 2 };
    });
    const said = await Promise.all(publishes);
    await game.publish(anyNode());
    const now = await game.state(user);
    expect(now).toMatchObject({
      seen: Math.max(before.seen, ...said.map(({ head }) => head)),
      read: Math.max(before.read, ...said.filter(({ reads }) => reads).map(({ head }) => head)),
    });
  });
});

test('an erasure leaves nothing of what devices of the user say meanwhile', async () => {
  let refused = 0;
  await play(async (game) => {
    await game.publish(anyNode(), 3);
    const [node] = nodes;
    const { tenant: pool, engine } = node.pools;
    const { tenantId } = game;
    const registry = new ErasureRegistryStore(pool, engine);
    const inFlight = new InFlightTransactionsStore(engine);
    const user = userId('alice');
    const worker = randomUUID();
    const items = { alice: await game.items('alice'), bob: await game.items('bob') };
    const known = { alice: await game.snapshot('alice'), bob: await game.snapshot('bob') };
    const over = new AbortController();
    const devices = nodes.map(async ({ inbox }) => {
      while (!over.signal.aborted) {
        const calls = USERS.map((name) => anyCall(name, items[name], known[name]).marking);
        const results = await inbox.mark(tenantId, chance(50) ? calls : calls.toReversed());
        refused += results.filter((result) => result === 'being_erased').length;
        if (results.includes('no_inbox')) await inbox.begin(tenantId, [{ user }]);
        if (chance(30)) await inbox.snapshots(tenantId, USERS.map(reader));
      }
    });
    const erase = async () => {
      const begun = await registry.begin(
        (...statement) => pool.rows(...statement),
        tenantId,
        user,
        '{}',
        worker,
      );
      const erasure: Erasure = {
        tenantId,
        id: String(begun?.id),
        digest: digestOf(tenantId, user),
        user,
        worker,
        position: null,
        erasedAt: null,
        emptied: false,
        done: false,
      };
      for (let before = await inFlight.underWay(); before.length > 0; before = await inFlight.still(before));
      const upTo = await registry.cut(erasure, worker);
      if (upTo === undefined) throw new Error('it was not settled');
      for (const step of new ErasureWorkerStore(pool).steps(erasure, worker, upTo))
        expect(await step(undefined)).toMatchObject({ next: undefined });
      const left = await bench.database.query(
        `select from inbox_users where tenant_id = $1 and user_id = $2
           union all select from inbox_marks where tenant_id = $1 and user_id = $2
           union all select from engagements where tenant_id = $1 and user_id = $2
           union all select from notifications where tenant_id = $1 and user_id = $2`,
        [tenantId, user],
      );
      expect(left).toEqual([]);
      expect(await registry.markEmptied(erasure, worker)).toBe(true);
      expect(await pool.transaction(tenantId, (run) => registry.finish(run, erasure, worker))).toBeDefined();
    };
    await erase().finally(() => over.abort());
    await Promise.all(devices);
    await anyNode().inbox.begin(tenantId, [{ user }]);
  });
  expect(refused).toBeGreaterThan(0);
});

const DAY = 86_400_000 * POSITIONS_PER_MS;
/** Rounds until a day is over. */
const ROUNDS_OF_DAY = 8;

test('what retention takes away while devices speak is in no number', async () => {
  const retention = new RetentionStore((statement, values) => maintenance.rows(statement, values));
  let floor = 0;
  let head = 0;
  const game = await Game.begin(0);
  const { tenantId } = game;
  const publish = async (positions: readonly number[]) => {
    head = Math.max(...positions);
    await bench.database.query(
      `with stored as (
         insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher)
         select $1, p, gen_random_uuid(), case p % 3 when 0 then 'alice' when 1 then 'bob' end, case when p % 6 = 2 then 'news' end,
           't', '1', 1, 'p' from unnest($2::bigint[]) p
       )
       update tenant_logs set head = $3 where tenant_id = $1`,
      [tenantId, positions, head],
    );
  };
  for (let n = 0; n < ROUNDS; n += 1) {
    const [day, nth] = [Math.floor(n / ROUNDS_OF_DAY), n % ROUNDS_OF_DAY];
    if (nth === 0)
      for (const ahead of n === 0 ? [0, 1] : [day + 1])
        await nodes[0].partitions.ensureCovering(asPosition(ahead * DAY));
    // Half a day ahead of what is taken away.
    const [gone, from] = [day * DAY + (nth * DAY) / ROUNDS_OF_DAY, (n / ROUNDS_OF_DAY + 0.5) * DAY];
    await publish(range(6).map((more) => Math.ceil(from) + 1 + more));
    const items = { alice: await game.items('alice'), bob: await game.items('bob') };
    const known = { alice: await game.snapshot('alice'), bob: await game.snapshot('bob') };
    const devices = nodes.map(async ({ inbox }) => {
      for (let call = 0; call < 2; call += 1) {
        const calls = USERS.map((user) => anyCall(user, items[user], known[user]).marking);
        for (const result of await inbox.mark(tenantId, chance(50) ? calls : calls.toReversed()))
          expect(result).toMatchObject({ changed: expect.any(Boolean) });
        await inbox.snapshots(tenantId, USERS.map(reader));
      }
    });
    const retain = async () => {
      const raised = { tenantId, floor: asPosition(gone), before: asPosition(floor), removed: 0, bytes: 0 };
      if (gone > floor) expect(await retention.raiseOne({ ...raised, more: false })).toBe(true);
      floor = gone;
      if (nth > 0 || day === 0) return;
      const over = rangeCovering(asPosition((day - 1) * DAY), 24);
      for (const table of PARTITIONED) {
        const partition = { table, name: partitionName(table, over), ...over };
        // Nobody may be reading it; until then it is asked for again, as in a round of maintenance.
        await eventually(() => retention.drop(partition), {
          every: 1,
        }).catch((error: unknown) => {
          throw new Error(`${partition.name} is not given up: ${errorCode(error)}`, { cause: error });
        });
      }
    };
    await Promise.all([...devices, retain()]);
    await game.rest();
  }
});

test('nobody waited for one another in all of this', async () => {
  for (const node of nodes) await bench.cut(node);
  // Sessions report what they have counted when they end.
  await eventually(async () => {
    const rows = await bench.database.query(
      `select from pg_stat_activity where datname = current_database() and application_name like 'tidings test%'`,
    );
    expect(rows).toEqual([]);
  });
  const [row] = await bench.database.query<{ deadlocks: number }>(
    'select deadlocks from pg_stat_database where datname = current_database()',
  );
  expect(row).toEqual({ deadlocks: 0 });
});
