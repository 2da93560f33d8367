import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ChangeFeed, ChangeFeedStore } from '../../src/cluster/change-feed.ts';
import { readConfig } from '../../src/core/config.ts';
import { tenantIdSchema, userIdSchema } from '../../src/core/identifiers.ts';
import { Revocations, RevocationsStore, type RevocationRequest } from '../../src/auth/revocations.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../support/database.ts';
import { loneBus, openPools, type TestPools } from '../support/pools.ts';
import { TEST_SECRET } from '../support/tokens.ts';

const MINUTE = 60_000;
const DAY = 86_400_000;

let database: TestDatabase;
let pools: TestPools;
let store: RevocationsStore;

beforeAll(async () => {
  database = await createDatabase();
  pools = openPools(database);
  store = new RevocationsStore(pools.engine, pools.tenant);
});
afterEach(async () => {
  jest.restoreAllMocks();
  await database.query('delete from revocations');
});
afterAll(async () => {
  await pools.end();
  await database.drop();
});

/** A node that has looked once, and looks again when it is told to. */
async function startNode() {
  const config = readConfig({ ...settingsOf(database), JWT_SECRET: TEST_SECRET });
  const changes = new ChangeFeed(new ChangeFeedStore(pools.engine), loneBus(), config);
  const revocations = new Revocations(changes, store);
  await changes.now();
  const heard: string[] = [];
  revocations.changed.subscribe((tenant) => heard.push(tenant));
  return {
    heard,
    look: () => changes.now(),
    /** Whether a token of `alice` of `acme` is refused, issued long ago unless told otherwise. */
    revokes: ({ tenant = 'acme', user = 'alice', jti, iat }: TokenOptions) =>
      revocations.revokes({
        tenantId: tenantIdSchema.parse(tenant),
        subject: user,
        tokenId: jti,
        issuedAt: iat === undefined ? Date.now() - DAY : (iat ?? undefined),
      }),
  };
}

interface TokenOptions {
  tenant?: string;
  user?: string;
  jti?: string;
  /** ms; null for none. */
  iat?: number | null;
}

const insert = (request: RevocationRequest, tenant = 'acme', days = 30) =>
  pools.tenant.transaction(tenantIdSchema.parse(tenant), (run) =>
    store.insert(run, tenantIdSchema.parse(tenant), request, days),
  );
const ofToken = (jti: string, expiresAt?: Date): RevocationRequest => ({ kind: 'token', jti, expiresAt });
const ofUser = (user: string, issuedBefore?: Date): RevocationRequest => ({
  kind: 'user',
  user: userIdSchema.parse(user),
  issuedBefore,
});

/** A row whose end is so many milliseconds away. */
const endingIn = (jti: string, ms: number) =>
  database.query(
    `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
     values ('acme', gen_random_uuid(), 'token', $1, now() + make_interval(secs => $2))`,
    [jti, ms / 1_000],
  );

describe('a revoked token', () => {
  test('is refused, and no other', async () => {
    const node = await startNode();
    await insert(ofToken('j-1'));
    expect(node.revokes({ jti: 'j-1' })).toBe(false);
    await node.look();
    expect(node.revokes({ jti: 'j-1' })).toBe(true);
    expect(node.revokes({ jti: 'j-1', iat: null })).toBe(true);
    for (const jti of ['j-2', 'J-1', 'j-1 ', 'alice']) expect(node.revokes({ jti })).toBe(false);
    expect(node.revokes({})).toBe(false);
    expect(node.heard).toEqual(['acme']);
  });

  test('is no user of that name, and a revoked user is no token', async () => {
    const node = await startNode();
    await insert(ofToken('alice'));
    await insert(ofUser('bob'));
    await node.look();
    expect(node.revokes({ user: 'alice' })).toBe(false);
    expect(node.revokes({ user: 'carol', jti: 'bob' })).toBe(false);
  });

  test('is one of its tenant: the same id is good in another', async () => {
    const node = await startNode();
    await insert(ofToken('j-1'), 'other');
    await insert(ofUser('alice'), 'other');
    await node.look();
    expect(node.revokes({ jti: 'j-1' })).toBe(false);
    expect(node.revokes({ jti: 'j-1', tenant: 'other' })).toBe(true);
    expect(node.revokes({ tenant: 'Other' })).toBe(false);
    expect(node.heard).toEqual(['other']);
  });
});

describe('a revoked user', () => {
  test('is refused with what was issued before the instant, and with what does not say when it was issued', async () => {
    const node = await startNode();
    const instant = Date.now() - MINUTE;
    await insert(ofUser('alice', new Date(instant)));
    await node.look();
    expect(node.revokes({ iat: instant - 1 })).toBe(true);
    expect(node.revokes({ iat: instant })).toBe(false);
    expect(node.revokes({ iat: instant + 1 })).toBe(false);
    expect(node.revokes({ iat: null })).toBe(true);
    expect(node.revokes({ iat: null, user: 'bob' })).toBe(false);
  });

  test('of whom no instant is said is refused with all that was issued until now', async () => {
    const node = await startNode();
    const before = Date.now();
    const record = await insert(ofUser('alice'));
    await node.look();
    if (record?.revoked.kind !== 'user') throw new Error('there is no record');
    // The server of the tests has the clock of this machine.
    expect(record.revoked.issuedBefore.getTime()).toBeGreaterThanOrEqual(before);
    expect(record.revoked.issuedBefore.getTime()).toBeLessThanOrEqual(Date.now());
    expect(node.revokes({ iat: before - 2_000 })).toBe(true);
    expect(node.revokes({ iat: Date.now() + 2_000 })).toBe(false);
  });

  test.each([
    ['one after the other', (instant: Date) => insert(ofUser('alice', instant))],
    // Two that were made at once do not see each other, and both are there.
    [
      'at once',
      (instant: Date) =>
        database.query(
          `insert into revocations (tenant_id, revocation_id, kind, subject, issued_before, expires_at)
           values ('acme', gen_random_uuid(), 'user', 'alice', $1, now() + interval '1 hour')`,
          [instant.toISOString()],
        ),
    ],
  ])(
    'twice, %s, is refused by the later instant, in whatever sequence the two are heard',
    async (_, revoke) => {
      const [early, late] = [Date.now() - 2 * MINUTE, Date.now() - MINUTE];
      for (const order of [
        [early, late],
        [late, early],
      ]) {
        const node = await startNode();
        for (const instant of order) {
          await revoke(new Date(instant));
          await node.look();
        }
        expect(node.revokes({ iat: late - 1 })).toBe(true);
        expect(node.revokes({ iat: late })).toBe(false);
        const again = await startNode();
        expect(again.revokes({ iat: late - 1 })).toBe(true);
        await database.query('delete from revocations');
      }
    },
  );
});

describe('a revocation', () => {
  test('ends with the token, or with the longest life that a token may have', async () => {
    const expiresAt = new Date(Date.now() + 5 * MINUTE);
    expect(await insert(ofToken('j-1', expiresAt))).toMatchObject({ expiresAt });
    for (const request of [ofToken('j-2'), ofUser('alice'), ofUser('bob', new Date(0))]) {
      const record = await insert(request, 'acme', 30);
      const left = (record?.expiresAt.getTime() ?? 0) - Date.now();
      expect(left).toBeGreaterThan(30 * DAY - MINUTE);
      expect(left).toBeLessThan(30 * DAY + MINUTE);
    }
  });

  test.each([
    ['of a token that has ended', ofToken('j-1', new Date(Date.now() - 1_000))],
    ['of what will be issued', ofUser('alice', new Date(Date.now() + DAY))],
  ])('%s is not stored', async (_, request) => {
    expect(await insert(request)).toBeUndefined();
    expect(await database.query('select from revocations')).toEqual([]);
  });

  test('holds for as long as its token may be honoured past its end, also on a node that starts then', async () => {
    const first = await startNode();
    // Clocks are forgiven a minute at most (JWT_CLOCK_TOLERANCE_SECONDS).
    await endingIn('just ended', -1_000);
    await endingIn('ended a minute ago', -65_000);
    await endingIn('ended long ago', -10 * MINUTE);
    await first.look();
    const second = await startNode();
    for (const node of [first, second])
      for (const jti of ['just ended', 'ended a minute ago']) expect(node.revokes({ jti })).toBe(true);
    expect(second.revokes({ jti: 'ended long ago' })).toBe(false);
  });

  test('is forgotten by a node long after it has ended, and not before', async () => {
    const node = await startNode();
    await endingIn('short', 5 * MINUTE);
    await endingIn('just ended', 10 * MINUTE);
    await endingIn('long', 30 * MINUTE);
    await insert(ofUser('alice'), 'acme', 1);
    await node.look();
    const later = Date.now() + 11 * MINUTE;
    jest.spyOn(Date, 'now').mockReturnValue(later);
    await node.look();
    expect(['short', 'just ended', 'long'].map((jti) => node.revokes({ user: 'bob', jti }))).toEqual([
      false,
      true,
      true,
    ]);
    expect(node.revokes({ user: 'alice' })).toBe(true);
  });

  test('is known to a node from its start, however many there are', async () => {
    await database.query(`
      insert into revocations (tenant_id, revocation_id, kind, subject, issued_before, expires_at)
      select 'tenant-' || n % 7, gen_random_uuid(), case when n % 2 = 0 then 'token' else 'user' end, 's-' || n,
        case when n % 2 = 1 then now() end, now() + interval '1 hour'
      from generate_series(1, 25000) n`);
    const node = await startNode();
    const missing = Array.from({ length: 25_000 }, (_, i) => i + 1).filter((n) => {
      const subject = `s-${n}`;
      const token = n % 2 === 0 ? { jti: subject } : { user: subject };
      return !node.revokes({ tenant: `tenant-${n % 7}`, ...token });
    });
    expect(missing).toEqual([]);
    expect(node.revokes({ tenant: 'tenant-0', jti: 's-25001' })).toBe(false);
  });

  test('is listed with those in force, newest first, in pages, and in its tenant only', async () => {
    const made: (string | undefined)[] = [];
    for (const n of [1, 2, 3, 4, 5]) made.push((await insert(ofToken(`j-${n}`)))?.id);
    await insert(ofToken('j-1'), 'other');
    await endingIn('ended', -1_000);
    const first = await store.page(tenantIdSchema.parse('acme'), undefined, 3);
    const second = await store.page(tenantIdSchema.parse('acme'), first.at(-1)?.place, 3);
    expect([...first, ...second].map(({ id }) => id)).toEqual(made.toReversed());
    expect(first[0]).toMatchObject({ revoked: { kind: 'token', jti: 'j-5' }, createdAt: expect.any(Date) });
    expect(await store.page(tenantIdSchema.parse('acme'), second.at(-1)?.place, 3)).toEqual([]);
  });

  test('is undone with the transaction of the act', async () => {
    const node = await startNode();
    const undone = pools.tenant.transaction(tenantIdSchema.parse('acme'), async (run) => {
      await store.insert(run, tenantIdSchema.parse('acme'), ofToken('j-1'), 30);
      throw new Error('the act failed');
    });
    await expect(undone).rejects.toThrow('the act failed');
    await node.look();
    expect(node.revokes({ jti: 'j-1' })).toBe(false);
  });
});
