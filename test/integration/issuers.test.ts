import { randomUUIDv7 } from 'node:crypto';
import { Logger } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { ChangeFeed, ChangeFeedStore } from '../../src/cluster/change-feed.ts';
import { readConfig, type Config } from '../../src/core/config.ts';
import type { Pool } from '../../src/postgres/pool.ts';
import { Issuers, IssuersStore } from '../../src/auth/issuers.ts';
import { issuerRegistrationSchema, newIssuer, type IssuerState } from '../../src/auth/registration.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../support/database.ts';
import {
  loneBus,
  openPools,
  openTransactions,
  type TestPools,
  type TestTransactions,
} from '../support/pools.ts';
import { issuerKey, startKeyServer, type IssuerKey, type KeyServer } from '../support/key-server.ts';
import { TEST_SECRET } from '../support/tokens.ts';

const SECRET = 'the secret of an issuer, 32 bytes or more';
const ISS = 'https://idp.example/';

let database: TestDatabase;
let pools: TestPools;
let pool: Pool;
let transactions: TestTransactions;
let store: IssuersStore;
let errors: string[];

beforeAll(async () => {
  database = await createDatabase();
  pools = openPools(database);
  pool = pools.engine;
  transactions = await openTransactions(database);
  store = new IssuersStore(pool, pool);
});
beforeEach(() => {
  errors = [];
  const ignore = () => undefined;
  Logger.overrideLogger({
    log: ignore,
    warn: ignore,
    error: (message: unknown) => errors.push(String(message)),
  });
});
afterEach(async () => {
  await database.query('delete from issuers');
});
afterAll(async () => {
  await transactions.end();
  await pools.end();
  await database.drop();
});

const configOf = (settings: Record<string, string> = {}): Config =>
  readConfig({
    ...settingsOf(database),
    JWT_SECRET: TEST_SECRET,
    ISSUER_SECRETS_KEY: 'k'.repeat(32),
    ...settings,
  });

const stateOf = (id: string, change: object = {}): IssuerState =>
  newIssuer(
    id,
    issuerRegistrationSchema.parse({
      iss: ISS,
      jwksUrl: `${ISS}keys`,
      audiences: ['tidings'],
      tenant: 'acme',
      ...change,
    }),
    configOf(),
  );

async function register(change: object = {}): Promise<{ id: string; state: IssuerState }> {
  const id = randomUUIDv7();
  const state = stateOf(id, change);
  const record = await transactions.registry.transaction((entities) => store.insert(entities, id, state));
  if (record === 'iss-taken') throw new Error('The issuer is registered already.');
  return { id, state };
}

const update = (id: string, state: IssuerState) =>
  transactions.registry.transaction((entities) => store.update(entities, id, state));
const remove = (id: string) => transactions.registry.transaction((entities) => store.remove(entities, id));

/** Runs `work` while a transaction of somebody else is under way. */
async function duringTransaction(work: () => Promise<void>): Promise<void> {
  await pool.transaction(async (run) => {
    await run({ name: 'begin_to_write', text: 'select pg_current_xact_id()' });
    await work();
  });
}

/** What a node knows, and how it hears. */
async function startNode(
  settings: Record<string, string> = {},
): Promise<{ issuers: Issuers; look: () => Promise<void>; changes: () => number }> {
  const config = configOf(settings);
  const changes = new ChangeFeed(new ChangeFeedStore(pool), loneBus(), config);
  const issuers = new Issuers(changes, store, config);
  let changed = 0;
  issuers.changed.subscribe(() => changed++);
  // Nothing looks by itself here: each test says when.
  await changes.now();
  return { issuers, look: () => changes.now(), changes: () => changed };
}

describe('the store of issuers', () => {
  test('keeps what was registered, and counts its versions', async () => {
    const { id, state } = await register({ name: 'Acme', secret: SECRET, jwksUrl: undefined });
    const stored = { ...state, id, version: 1, createdAt: expect.any(Date), updatedAt: expect.any(Date) };
    expect(await store.find(id)).toEqual(stored);
    const changed = {
      ...state,
      name: null,
      status: 'disabled' as const,
      revokedBefore: new Date('2026-01-01T00:00:00.123Z'),
    };
    expect(await update(id, changed)).toEqual({ ...stored, ...changed, version: 2 });
    expect(await store.find(id)).toEqual({ ...stored, ...changed, version: 2 });
  });

  test('takes an `iss` once, and again after it was deleted', async () => {
    const { id } = await register();
    const second = randomUUIDv7();
    expect(
      await transactions.registry.transaction((entities) => store.insert(entities, second, stateOf(second))),
    ).toBe('iss-taken');
    expect(await remove(id)).toBe(true);
    expect(
      await transactions.registry.transaction((entities) => store.insert(entities, second, stateOf(second))),
    ).toMatchObject({
      id: second,
    });
  });

  test('of two registrations of one `iss` at once takes one', async () => {
    const outcomes = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const id = randomUUIDv7();
        return await transactions.registry.transaction((entities) => store.insert(entities, id, stateOf(id)));
      }),
    );
    expect(outcomes.filter((record) => record !== 'iss-taken')).toHaveLength(1);
  });

  test('says so when an issuer would get the `iss` of another', async () => {
    await register();
    const { id, state } = await register({ iss: 'https://other.example/' });
    await expect(
      transactions.registry.transaction(async (entities) => {
        expect(await store.update(entities, id, { ...state, iss: ISS })).toBe('iss-taken');
        throw new Error('rolled back');
      }),
    ).rejects.toThrow('rolled back');
    expect(await store.find(id)).toMatchObject({ iss: 'https://other.example/', version: 1 });
  });

  test('forgets the secret of an issuer that is deleted, and finds it no more', async () => {
    const { id, state } = await register({ secret: SECRET, jwksUrl: undefined });
    expect(await remove(id)).toBe(true);
    expect(await remove(id)).toBe(false);
    expect(await store.find(id)).toBeUndefined();
    expect(await transactions.registry.transaction((entities) => store.lock(entities, id))).toBeUndefined();
    await expect(update(id, state)).rejects.toThrow('not there');
    expect(await store.page(undefined, 10)).toEqual([]);
    expect(await database.query('select sealed_secret from issuers')).toEqual([{ sealed_secret: null }]);
  });

  test('lets one writer after the other at an issuer', async () => {
    const { id, state } = await register();
    const rename = (name: string) =>
      transactions.registry.transaction(async (entities) => {
        const before = await store.lock(entities, id);
        await store.update(entities, id, { ...state, name });
        return before?.name;
      });
    const names = await Promise.all(['a', 'b', 'c', 'd'].map(rename));
    // Each saw what the one before it wrote: nobody worked on an old state.
    expect(new Set(names).size).toBe(4);
  });

  test('lists issuers in pages, oldest first', async () => {
    const ids: string[] = [];
    for (const name of ['a', 'b', 'c']) ids.push((await register({ iss: `https://${name}.example/` })).id);
    const first = await store.page(undefined, 2);
    expect(first.map(({ id }) => id)).toEqual(ids.slice(0, 2));
    expect((await store.page(first.at(-1)?.id, 2)).map(({ id }) => id)).toEqual(ids.slice(2));
  });
});

describe('a node', () => {
  test('knows the issuer of its settings, which may speak for every tenant', async () => {
    const { issuers } = await startNode({
      JWT_ISSUER: 'https://own.example/',
      JWT_AUDIENCE: 'aud',
      JWT_SCOPES: 'history:read',
    });
    const issuer = issuers.find('https://own.example/');
    expect(issuer).toMatchObject({
      id: 'environment',
      version: 0,
      status: 'active',
      algorithms: ['HS256'],
      audiences: ['aud'],
      tenants: { kind: 'any' },
    });
    expect([...(issuer?.scopes ?? [])]).toEqual(['history:read']);
    const key = await issuer?.keys.keyFor({ alg: 'HS256', kid: undefined });
    expect(key?.export().toString()).toBe(TEST_SECRET);
  });

  test('hears of a registration, a change and the end of an issuer, wherever it was written', async () => {
    const { issuers, look } = await startNode();
    const { id, state } = await register({
      tenant: undefined,
      tenants: ['acme', 'globex'],
      scopes: ['tenants:admin'],
      requireAtJwt: true,
    });
    expect(issuers.find(ISS)).toBeUndefined();
    await look();
    expect(issuers.find(ISS)).toMatchObject({
      id,
      iss: ISS,
      version: 1,
      status: 'active',
      algorithms: ['RS256'],
      audiences: ['tidings'],
      tenants: { kind: 'listed', tenantIds: new Set(['acme', 'globex']) },
      scopes: new Set(['tenants:admin']),
      requireAtJwt: true,
      revokedBefore: undefined,
    });

    await update(id, { ...state, status: 'disabled', revokedBefore: new Date(1_790_000_000_000) });
    await look();
    expect(issuers.find(ISS)).toMatchObject({
      version: 2,
      status: 'disabled',
      revokedBefore: 1_790_000_000_000,
    });

    await remove(id);
    await look();
    expect(issuers.find(ISS)).toBeUndefined();
  });

  test('knows from its start what was registered before, and nothing that was deleted', async () => {
    const { id } = await register();
    await register({ iss: 'https://other.example/' });
    await remove(id);
    const { issuers } = await startNode();
    expect(issuers.find('https://other.example/')).toMatchObject({
      tenants: { kind: 'fixed', tenantId: 'acme' },
    });
    expect(issuers.find(ISS)).toBeUndefined();
  });

  test('takes an `iss` for what it is, byte by byte', async () => {
    await register();
    const { issuers } = await startNode();
    for (const alike of [
      'https://idp.example',
      'https://IDP.example/',
      `${ISS}/`,
      ` ${ISS}`,
      '__proto__',
      '',
    ]) {
      expect(issuers.find(alike)).toBeUndefined();
    }
  });

  test('keeps the same object until the registration changes, and says when something did', async () => {
    // As long as a transaction is under way, every look reads again what was written since it began.
    await duringTransaction(async () => {
      const { id, state } = await register();
      await register({ iss: 'https://other.example/' });
      const { issuers, look, changes } = await startNode();
      const first = { issuer: issuers.find(ISS), other: issuers.find('https://other.example/') };
      const changesBefore = changes();
      await look();
      await look();
      expect(issuers.find(ISS)).toBe(first.issuer);
      expect(changes()).toBe(changesBefore);
      await update(id, state);
      await look();
      await look();
      expect(issuers.find(ISS)).not.toBe(first.issuer);
      expect(issuers.find('https://other.example/')).toBe(first.other);
      expect(changes()).toBe(changesBefore + 1);
    });
  });

  test('hears of a change that was committed after a later one', async () => {
    const { issuers, look } = await startNode();
    const slow = Promise.withResolvers<void>();
    const written = Promise.withResolvers<void>();
    const id = randomUUIDv7();
    const first = transactions.registry.transaction(async (entities) => {
      await store.insert(entities, id, stateOf(id));
      written.resolve();
      await slow.promise;
    });
    await written.promise;
    await register({ iss: 'https://other.example/' });
    await look();
    await look();
    expect(issuers.find('https://other.example/')).toBeDefined();
    slow.resolve();
    await first;
    await look();
    expect(issuers.find(ISS)).toMatchObject({ id });
  });

  test('lets an `iss` move from one issuer to another', async () => {
    const { issuers, look } = await startNode();
    const one = await register();
    await look();
    await update(one.id, { ...one.state, iss: 'https://moved.example/' });
    const two = await register();
    await look();
    expect(issuers.find(ISS)).toMatchObject({ id: two.id });
    expect(issuers.find('https://moved.example/')).toMatchObject({ id: one.id });
    await remove(one.id);
    await look();
    expect(issuers.find(ISS)).toMatchObject({ id: two.id });
    expect(issuers.find('https://moved.example/')).toBeUndefined();
  });

  test('forgets what the database does not know any more, once it went back', async () => {
    await register();
    const { issuers } = await startNode();
    await database.query('delete from issuers');
    await issuers.load();
    expect(issuers.find(ISS)).toBeUndefined();
  });

  test('keeps to the issuer of its settings when another one was registered under its name before', async () => {
    const { id } = await register();
    const { issuers } = await startNode({ JWT_ISSUER: ISS });
    expect(issuers.find(ISS)).toMatchObject({ id: 'environment' });
    expect(errors).toEqual([expect.stringContaining(id)]);
  });

  test.each<[string, string]>([
    ['was written by a later version', `'{"algorithms":["ML-DSA-44"]}'`],
    ['is broken', `'[]'`],
  ])('refuses the tokens of an issuer whose registration %s, and works on', async (_, definition) => {
    const { id } = await register();
    await register({ iss: 'https://other.example/' });
    await database.query(`update issuers set definition = ${definition} where issuer_id = $1`, [id]);
    const { issuers } = await startNode();
    expect(issuers.find(ISS)).toBeUndefined();
    expect(issuers.find('https://other.example/')).toBeDefined();
    expect(errors).toEqual([expect.stringContaining(id)]);
  });
});

describe('a sealed secret', () => {
  test('is what the tokens of its issuer are verified with, on every node with the key', async () => {
    await register({ jwksUrl: undefined, secret: SECRET });
    for (const { issuers } of [await startNode(), await startNode()]) {
      const key = await issuers.find(ISS)?.keys.keyFor({ alg: 'HS256', kid: 'any' });
      expect(key?.export().toString()).toBe(SECRET);
    }
    const [row] = await database.query<{ row: string }>(
      `select issuers::text || encode(sealed_secret, 'escape') as row from issuers`,
    );
    expect(row?.row).not.toContain(SECRET);
  });

  test.each<[string, Record<string, string>]>([
    ['another key', { ISSUER_SECRETS_KEY: 'x'.repeat(32) }],
    ['no key', { ISSUER_SECRETS_KEY: '' }],
  ])(
    'that does not open on a node with %s makes its issuer unusable there, and no other',
    async (_, settings) => {
      const { id } = await register({ jwksUrl: undefined, secret: SECRET });
      await register({ iss: 'https://other.example/' });
      const { issuers, look } = await startNode(settings);
      await look();
      expect(issuers.find(ISS)).toBeUndefined();
      expect(issuers.find('https://other.example/')).toBeDefined();
      expect(issuers.find('tidings')).toBeDefined();
      expect(errors).toEqual([expect.stringContaining(id)]);
      expect(errors.join()).not.toContain(SECRET);
    },
  );

  test('does not open in the row of another issuer', async () => {
    await register({ jwksUrl: undefined, secret: SECRET });
    const other = await register({
      iss: 'https://other.example/',
      jwksUrl: undefined,
      secret: SECRET.toUpperCase(),
    });
    await database.query(
      `update issuers set sealed_secret = (select sealed_secret from issuers where iss = $1) where issuer_id = $2`,
      [ISS, other.id],
    );
    const { issuers } = await startNode();
    expect(issuers.find('https://other.example/')).toBeUndefined();
    expect(issuers.find(ISS)).toBeDefined();
  });
});

describe('the key set of an issuer', () => {
  let key: IssuerKey;
  let server: KeyServer;
  beforeEach(async () => {
    key = await issuerKey('ES256', 'k1');
    server = await startKeyServer([key.jwk]);
  });
  afterEach(async () => {
    await server.close();
  });

  const request = { alg: 'ES256', kid: 'k1' };

  test('is kept when something else of the registration changes, and used for the new algorithms alone', async () => {
    const { id, state } = await register({ jwksUrl: server.url, algorithms: ['ES256'] });
    const { issuers, look } = await startNode();
    await issuers.find(ISS)?.keys.keyFor(request);
    await update(id, { ...state, name: 'Acme' });
    await look();
    await issuers.find(ISS)?.keys.keyFor(request);
    await issuers.load();
    await issuers.find(ISS)?.keys.keyFor(request);
    expect(server.asked).toHaveLength(1);

    await update(id, { ...state, definition: { ...state.definition, algorithms: ['RS256'] } });
    await look();
    await expect(issuers.find(ISS)?.keys.keyFor(request)).rejects.toMatchObject({ name: 'NoSuchKey' });
  });

  test('is fetched anew from another place', async () => {
    const { id, state } = await register({ jwksUrl: server.url, algorithms: ['ES256'] });
    const { issuers, look } = await startNode();
    await issuers.find(ISS)?.keys.keyFor(request);
    await update(id, { ...state, definition: { ...state.definition, jwksUrl: `${server.url}?new` } });
    await look();
    await issuers.find(ISS)?.keys.keyFor(request);
    expect(server.asked).toEqual(['/keys', '/keys?new']);
  });

  test('serves its issuer and no other', async () => {
    const stranger = await issuerKey('ES256', 'k1');
    await register({ jwksUrl: server.url, algorithms: ['ES256'] });
    await register({
      iss: 'https://other.example/',
      jwksUrl: undefined,
      keys: { keys: [stranger.jwk] },
      algorithms: ['ES256'],
    });
    const { issuers } = await startNode();
    const keyOf = async (iss: string) =>
      (await issuers.find(iss)?.keys.keyFor(request))?.export({ format: 'jwk' })['x'];
    expect(await keyOf(ISS)).toBe(key.jwk.x);
    expect(await keyOf('https://other.example/')).toBe(stranger.jwk.x);
  });
});
