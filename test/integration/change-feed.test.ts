import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { Logger } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import pg from 'pg';
import { ChangeFeed, type ChangeSource, ChangeFeedStore } from '../../src/cluster/change-feed.ts';
import { readConfig } from '../../src/core/config.ts';
import { ChangeFeedPool } from '../../src/postgres/pools.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { Revocations, RevocationsStore } from '../../src/auth/revocations.ts';
import { StreamCommands, StreamCommandsStore } from '../../src/delivery/stream-commands.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { createDatabase, settingsOf, type DatabasePlace, type TestDatabase } from '../support/database.ts';
import { loneBus, openPools } from '../support/pools.ts';
import { eventually } from '../support/eventually.ts';
import { createScratchServer } from '../support/scratch-server.ts';
import { TEST_SECRET } from '../support/tokens.ts';

const acme = tenantIdSchema.parse('acme');

let database: TestDatabase;
let said: string[];
const nodes: Node[] = [];
const clients: pg.Client[] = [];

beforeAll(async () => {
  database = await createDatabase();
});
beforeEach(() => {
  said = [];
  const say = (message: unknown) => said.push(String(message));
  Logger.overrideLogger({ log: say, warn: say, error: say });
});
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end()));
  await Promise.all(nodes.splice(0).map((node) => node.stop()));
  await database.query('delete from revocations');
  await database.query('delete from stream_commands');
});
afterAll(async () => {
  await database.drop();
});

/** What a node hears, and how. */
class Node {
  readonly changes: ChangeFeed;
  readonly revocations: Revocations;
  readonly orders: StreamCommands;
  readonly #pools: readonly { end(): Promise<void> }[];

  constructor(place: DatabasePlace = database, CHANGES_POLL_MS = 900) {
    const options = {
      url: place.urls.crossTenant,
      name: 'test',
      connections: 4,
      connectTimeoutMs: 60_000,
      statementTimeoutMs: 60_000,
      preparedStatements: true,
    };
    const { tenant, end } = openPools(place);
    // One connection, as in the service.
    const changes = new ChangeFeedPool({ ...options, connections: 1 });
    this.#pools = [{ end }, changes];
    const config = readConfig({ ...settingsOf(place), JWT_SECRET: TEST_SECRET }, { CHANGES_POLL_MS });
    this.changes = new ChangeFeed(new ChangeFeedStore(changes), loneBus(), config);
    this.revocations = new Revocations(this.changes, new RevocationsStore(changes, tenant));
    this.orders = new StreamCommands(this.changes, new StreamCommandsStore(tenant, changes));
    nodes.push(this);
  }

  /** A node that has looked once. Nothing looks by itself: each test says when. */
  static async heard(place?: DatabasePlace): Promise<Node> {
    const node = new Node(place);
    await node.changes.now();
    return node;
  }

  revokes(tokenId: string): boolean {
    return this.revocations.revokes({ tenantId: acme, subject: 'x', tokenId, issuedAt: undefined });
  }

  /** Those of these tokens that are revoked here. */
  revoked(tokens: Iterable<string>): string[] {
    return [...tokens].filter((token) => this.revokes(token));
  }

  async stop(): Promise<void> {
    await this.changes.onModuleDestroy();
    await Promise.all(this.#pools.map((pool) => pool.end()));
  }
}

/** The oldest transaction that was under way. */
const xmin = (snapshot: string): bigint => BigInt(snapshot.split(':', 1)[0] ?? '');

/** A source that says what it was asked, and holds the answer back for as long as a test likes. */
class Witness implements ChangeSource {
  readonly asked: string[] = [];
  atOnce = 0;
  most = 0;
  answer: () => Promise<void> = () => Promise.resolve();

  constructor(changes: ChangeFeed) {
    changes.register(this);
  }

  load(): Promise<void> {
    return this.#asked('load');
  }

  catchUp(since: string): Promise<void> {
    return this.#asked(since);
  }

  async #asked(what: string): Promise<void> {
    this.asked.push(what);
    this.most = Math.max(this.most, (this.atOnce += 1));
    try {
      await this.answer();
    } finally {
      this.atOnce -= 1;
    }
  }
}

const REVOKE = `
insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
values ('acme', gen_random_uuid(), 'token', $1, now() + interval '1 hour')`;
const ORDER = `
insert into stream_commands (tenant_id, order_id, kind, user_id, expires_at)
values ('acme', gen_random_uuid(), 'disconnect', $1, now() + interval '1 hour')`;

const revoke = (token: string) => database.query(REVOKE, [token]);

async function session(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: database.url });
  clients.push(client);
  await client.connect();
  return client;
}

describe('a transaction that took its id early and commits late', () => {
  test('is heard of, whatever was committed and looked at meanwhile', async () => {
    const node = await Node.heard();
    const slow = await session();
    await slow.query('begin');
    await slow.query(REVOKE, ['late']);
    for (const token of ['a', 'b', 'c']) {
      await revoke(token);
      await node.changes.now();
      expect(node.revokes(token)).toBe(true);
      expect(node.revokes('late')).toBe(false);
    }
    await slow.query('commit');
    await node.changes.now();
    expect(node.revokes('late')).toBe(true);
  });

  test('is heard of by a node that started while it was open', async () => {
    const slow = await session();
    await slow.query('begin');
    await slow.query(REVOKE, ['late']);
    const node = await Node.heard();
    await revoke('other');
    await node.changes.now();
    await slow.query('commit');
    await node.changes.now();
    expect(node.revoked(['late', 'other'])).toEqual(['late', 'other']);
  });

  test('wherever four of them and looks fall: each look knows what was committed before it, and nothing else', async () => {
    const node = await Node.heard();
    const sessions = await Promise.all([session(), session(), session(), session()]);
    const steps = fc.array(
      fc.record({ who: fc.nat(3), what: fc.constantFrom('go on', 'go on', 'undo', 'look', 'others') }),
      { minLength: 5, maxLength: 25 },
    );
    let made = 0;
    await fc.assert(
      fc.asyncProperty(steps, async (sequence) => {
        const open = new Map<number, string>();
        const expected = new Map<string, boolean>();
        const look = async () => {
          await node.changes.now();
          expect(node.revoked(expected.keys())).toEqual(
            [...expected].filter(([, is]) => is).map(([id]) => id),
          );
        };
        const end = async (who: number, how: 'commit' | 'rollback', token: string) => {
          await sessions[who]?.query(how);
          open.delete(who);
          expected.set(token, how === 'commit');
        };
        for (const { who, what } of sequence) {
          const token = open.get(who);
          if (what === 'look') await look();
          else if (what === 'others') await database.query('select pg_current_xact_id()');
          else if (token !== undefined) await end(who, what === 'undo' ? 'rollback' : 'commit', token);
          else {
            made += 1;
            await sessions[who]?.query('begin');
            await sessions[who]?.query(REVOKE, [`t${made}`]);
            open.set(who, `t${made}`);
            expected.set(`t${made}`, false);
          }
        }
        for (const [who, token] of open) await end(who, 'commit', token);
        await look();
      }),
      { numRuns: 30 },
    );
  });

  test('makes rows be read again and again, which changes nothing', async () => {
    const node = await Node.heard();
    const witness = new Witness(node.changes);
    const received: string[] = [];
    node.orders.received.subscribe((order) => received.push(order.kind === 'disconnect' ? order.user : ''));
    const slow = await session();
    await slow.query('begin');
    await slow.query(ORDER, ['late']);
    const { rows } = await slow.query<{ id: string }>('select pg_current_xact_id()::text as id');
    await database.query(ORDER, ['early']);
    await revoke('a');
    for (let i = 0; i < 4; i += 1) await node.changes.now();
    // The snapshot does not pass it, so each look reads all of it. Other databases of the server have transactions, too.
    const passed = witness.asked
      .slice(1)
      .filter((snapshot) => !(xmin(snapshot) <= BigInt(rows[0]?.id ?? '')));
    expect([witness.asked.length > 3, passed]).toEqual([true, []]);
    expect(received).toEqual(['early']);
    expect(node.revoked(['a', 'b'])).toEqual(['a']);
    await database.query(ORDER, ['later']);
    await slow.query('commit');
    for (let i = 0; i < 3; i += 1) await node.changes.now();
    expect(received.toSorted()).toEqual(['early', 'late', 'later']);
  });
});

describe('asking for what is new', () => {
  test('tells of what was committed before, though a look was under way that had read before it', async () => {
    const node = await Node.heard();
    const witness = new Witness(node.changes);
    const gate = Promise.withResolvers<void>();
    const answered = Promise.withResolvers<void>();
    node.revocations.changed.subscribe(() => answered.resolve());
    await revoke('first');
    witness.answer = () => gate.promise;
    const underWay = node.changes.now();
    // This look has read the revocations, and waits for the witness.
    await answered.promise;
    await revoke('second');
    const asked = node.changes.now();
    witness.answer = () => Promise.resolve();
    gate.resolve();
    await asked;
    expect(node.revoked(['first', 'second'])).toEqual(['first', 'second']);
    await underWay;
  });

  test('by many at once is one more look, and looks come one after the other', async () => {
    const node = await Node.heard();
    const witness = new Witness(node.changes);
    const gate = Promise.withResolvers<void>();
    witness.answer = () => gate.promise;
    const first = node.changes.now();
    await eventually(() => expect(witness.atOnce).toBe(1));
    const others = Array.from({ length: 20 }, () => node.changes.now());
    gate.resolve();
    await Promise.all([first, ...others]);
    expect(witness.asked).toHaveLength(2);
    expect(witness.most).toBe(1);
  });

  test('is done by itself, every so many milliseconds', async () => {
    const node = new Node(database, 50);
    const witness = new Witness(node.changes);
    await node.changes.onModuleInit();
    expect(witness.asked).toEqual(['load']);
    await revoke('a');
    await eventually(() => expect(node.revokes('a')).toBe(true));
    expect(witness.asked.length).toBeGreaterThan(1);
    await node.changes.onModuleDestroy();
    const before = witness.asked.length;
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(witness.asked).toHaveLength(before);
  });

  test('waits for a source that is slow even when another one fails: a late answer never overtakes a newer one', async () => {
    const node = await Node.heard();
    const slow = new Witness(node.changes);
    const broken = new Witness(node.changes);
    const gate = Promise.withResolvers<void>();
    slow.answer = () => gate.promise;
    broken.answer = () => Promise.reject(new Error('broken'));
    await revoke('a');
    const failed = node.changes.now();
    await eventually(() => expect(slow.atOnce + broken.asked.length).toBe(2));
    broken.answer = () => Promise.resolve();
    const next = node.changes.now();
    // Time enough for a look that does not wait.
    await database.query('select pg_sleep(0.1)');
    expect(slow.asked).toHaveLength(1);
    gate.resolve();
    await Promise.all([failed, next]);
    expect(slow.most).toBe(1);
    // What a failed look has read is read once more.
    expect(slow.asked[1]).toBe(slow.asked[0]);
    expect(said).toEqual([
      'changes of other nodes cannot be read: broken',
      'changes of other nodes can be read again',
    ]);
  });
});

describe('while the database is away', () => {
  test('nothing is forgotten, and what happened meanwhile is heard when it is back', async () => {
    const proxy = await BreakingProxy.start(database);
    await revoke('before');
    const node = await Node.heard(proxy);
    proxy.away = true;
    proxy.cut();
    await revoke('meanwhile');
    await node.changes.now();
    await node.changes.now();
    expect(node.revoked(['before', 'meanwhile'])).toEqual(['before']);
    proxy.away = false;
    await node.changes.now();
    expect(node.revoked(['before', 'meanwhile'])).toEqual(['before', 'meanwhile']);
    expect(said).toEqual([
      expect.stringMatching(/^changes of other nodes cannot be read: /),
      'changes of other nodes can be read again',
    ]);
    await node.stop();
    nodes.splice(nodes.indexOf(node), 1);
    await proxy.close();
  });

  test('a node does not start: it could not tell who is revoked', async () => {
    const proxy = await BreakingProxy.start(database);
    proxy.away = true;
    await expect(new Node(proxy).changes.onModuleInit()).rejects.toThrow(/terminated|ECONNRESET/);
    await proxy.close();
  });
});

/** The way to one server, and at the next connection to another. */
class Switch {
  readonly #open = new Set<Socket>();
  readonly #listener = createServer((client) => {
    const server = connect(Number(this.target.port), this.target.hostname);
    for (const socket of [client, server]) {
      socket.on('error', () => undefined).on('close', () => [client, server].forEach((one) => one.destroy()));
      this.#open.add(socket);
    }
    client.pipe(server).pipe(client);
  });

  constructor(private target: URL) {}

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#listener.listen(0, '127.0.0.1', resolve));
    const url = new URL(this.target);
    url.hostname = '127.0.0.1';
    url.port = String((this.#listener.address() as AddressInfo).port);
    return url.href;
  }

  turnTo(target: URL): void {
    this.target = target;
    for (const socket of this.#open) socket.destroy();
  }

  close(): void {
    this.#listener.close();
    for (const socket of this.#open) socket.destroy();
  }
}

test('when the database is an older one, a restored backup, everything that counts is read anew', async () => {
  const restored = await createScratchServer({});
  const way = new Switch(new URL(database.urls.crossTenant));
  try {
    // Under the name and the login of the one that was lost.
    const lost = new URL(database.urls.crossTenant);
    const name = lost.pathname.slice(1);
    const admin = new pg.Client({ connectionString: restored.url('postgres') });
    await admin.connect();
    await admin.query(
      `create role ${admin.escapeIdentifier(lost.username)} superuser login password ${admin.escapeLiteral(lost.password)}`,
    );
    await admin.query(`create database ${admin.escapeIdentifier(name)}`);
    await admin.end();
    const there = new URL(restored.url(name));
    const backup = new pg.Client({ connectionString: there.href });
    await backup.connect();
    const [columns] = await database.query<{ list: string }>(
      `select string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ') as list
       from pg_attribute where attrelid = 'revocations'::regclass and attnum > 0`,
    );
    await backup.query(`create table revocations (${columns?.list ?? ''})`);
    await backup.query(`alter table revocations alter transaction set default pg_current_xact_id()`);
    await backup.query(REVOKE, ['in the backup']);

    const { rows } = await backup.query<{ far: string }>('select pg_current_xact_id()::text as far');
    // The one that is lost had come further.
    await database.query(`do $$ begin
      while pg_current_xact_id() <= '${rows[0]?.far ?? ''}'::xid8 loop commit; end loop;
    end $$`);
    await revoke('lost');
    const node = await Node.heard({
      ...database,
      urls: { ...database.urls, crossTenant: await way.listen() },
    });
    const witness = new Witness(node.changes);
    await node.changes.now();
    expect(witness.asked).toEqual([expect.stringMatching(/^\d+:\d+:/)]);
    expect(node.revoked(['lost', 'in the backup'])).toEqual(['lost']);
    const heard: string[] = [];
    node.revocations.changed.subscribe((tenant) => heard.push(tenant));

    way.turnTo(there);
    await eventually(async () => {
      await node.changes.now();
      expect(witness.asked).toContain('load');
    });
    expect(node.revoked(['lost', 'in the backup'])).toEqual(['in the backup']);
    // Streams are held against it, too.
    expect(heard).toContain('acme');
    await backup.query(REVOKE, ['after it']);
    await node.changes.now();
    expect(node.revokes('after it')).toBe(true);
    expect(witness.asked.at(-1)).toMatch(/^\d+:\d+:/);
    await backup.end();
  } finally {
    way.close();
    await Promise.all(nodes.splice(0).map((node) => node.stop()));
    await restored.remove();
  }
});
