import type { RouteOptions } from 'fastify';
import { SET_UP_SESSION } from '../../../src/postgres/session-settings.ts';
import { call, KeyIssuer } from '../../support/admin.ts';
import { get, post, publish, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { createDatabase, type TestDatabase } from '../../support/database.ts';
import { eventually } from '../../support/eventually.ts';
import { ListeningProxy, type Heard } from '../../support/listening-proxy.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { callersOf, type Callers } from './callers.ts';
import { Rows } from './rows.ts';

/*
 * Two tenants that call everything by the same names: alice and bob with their phones, the topic `news`, the publishers
 * billing and shop, the key `order-1`. What only one of them has carries its name. acme attacks, globex is attacked.
 */

/** Published under the key `order-1` in every tenant. */
export const ORDER = { to: { user: 'nobody' }, type: 'order', data: { n: 1 } };
export const KEY = 'order-1';

/** A tenant in which everything there is has happened. */
export interface Tenant extends Callers {
  readonly id: string;
  /** The name that only this tenant has: of a user with a stream, of a device, of a topic. */
  readonly only: string;
  /** Another one, which nobody publishes to any more: of a user, a topic, a type. */
  readonly past: string;
  /** To alice and to everyone, by billing; to bob, by shop. */
  readonly published: Readonly<Record<'alice' | 'bob' | 'everyone', StoredAnswer>>;
  /** Open streams: of bob, and of the user that only this tenant has. */
  readonly streams: Readonly<Record<'bob' | 'only', StreamClient>>;
  readonly connections: Readonly<Record<'bob' | 'only', string>>;
  readonly issuer: KeyIssuer;
  readonly issuerId: string;
  /** Of a user of whom there was nothing. */
  readonly erasure: string;
  /** Publishes once more, to a user who has no stream. */
  publish(headers?: Record<string, string>): Promise<StoredAnswer>;
  /** A ticket of alice that nobody has used. */
  readonly unspent: string;
  /** Another one, of this user. */
  ticket(user: string): Promise<string>;
}

export interface Stage {
  readonly node: Service;
  /** Another node with the same database, which takes smaller notifications; none of the streams is there. */
  readonly otherNode: Service;
  readonly database: TestDatabase;
  /** Between both nodes and their database. */
  readonly proxy: ListeningProxy;
  readonly rows: Rows;
  readonly acme: Tenant;
  readonly globex: Tenant;
  /** `GET /v1/notifications/{id}` for every route that Fastify has. */
  readonly routes: ReadonlySet<string>;
  /** What `work` results in, and the statements that were run for it, by name or text. */
  statementsOf<Result>(work: () => Promise<Result>): Promise<{ result: Result; statements: string[] }>;
  close(): Promise<void>;
}

/** What a node does by itself, again and again: looks at what others did, reports itself, writes receipts. */
const isOwnWork = ({ pool, name }: Heard): boolean =>
  /^tidings (bus|changes|entities|engine|listener|maintenance)$/.test(pool) ||
  // `name_tenant` stands before each statement of a tenant, also before its own.
  /^(name_tenant|database_now|log_heads|log_after|node_seen|record_connections|record_sends|move_cursors|end_connections|\w+_erasure|erase_\w+|\w+_erasure_done|cut_\w+)$/.test(
    name,
  );

/** So that what streams did is stored at once. */
const SETTINGS = { RECEIPTS_FLUSH_MS: 10, CHANGES_POLL_MS: 100 };

export async function setStage(given: Record<string, string> = {}): Promise<Stage> {
  const database = await createDatabase();
  const proxy = await ListeningProxy.start(database);
  const settings = { ...SETTINGS, ...given };
  const reached = { ...database, urls: proxy.urls };
  const routes = new Set<string>();
  const node = await startService(settings, {
    database: reached,
    prepare: (app) =>
      app
        .getHttpAdapter()
        .getInstance()
        .addHook('onRoute', ({ method, url }: RouteOptions) => {
          for (const each of [method].flat()) routes.add(`${each} ${url.replaceAll(/:(\w+)/g, '{$1}')}`);
        }),
  });
  const otherNode = await startService(
    { ...settings, NODE_NAME: 'other', MAX_DATA_BYTES: '4096' },
    { database: reached },
  );
  // In this order: the log of globex goes on where that of acme has ended.
  const acme = await settle(node, 'acme');
  const globex = await settle(node, 'globex');
  // A node that meets a tenant asks for its account; it did when the attacks begin.
  for (const { billing } of [acme, globex]) await post(`${otherNode.url}/v1/notifications`, billing, {});
  // What it would still change, an answer to an attack must not be taken for.
  for (const { erasure, operator } of [acme, globex])
    await eventually(async () => {
      const { body } = await get<{ status: string }>(`${node.url}/v1/erasures/${erasure}`, operator);
      if (body.status !== 'done') throw new Error(`the erasure of nobody is ${body.status}`);
    });
  await eventually(async () => {
    const [counted] = await database.query<{ connections: number }>(
      `select connections from connection_counts where tenant_id = 'globex'`,
    );
    if (counted?.connections !== Object.keys(globex.streams).length)
      throw new Error(`${counted?.connections} streams of globex are counted`);
  });
  const doomed = await call('POST', `${node.url}/v1/tenants`, acme.admin, { id: 'doomed' });
  if (doomed.status !== 201) throw new Error(`POST /v1/tenants was answered ${doomed.status}`);
  return {
    node,
    otherNode,
    database,
    proxy,
    rows: await Rows.of(database),
    acme,
    globex,
    routes,
    async statementsOf(work) {
      const from = proxy.heard.length;
      const result = await work();
      const heard = proxy.heard.slice(from).filter((each) => !isOwnWork(each));
      // What a connection says once, when it is made, is no answer to anybody.
      const statements = heard.map(({ name }) => name).filter((name) => name !== SET_UP_SESSION);
      return { result, statements };
    },
    async close() {
      for (const { streams } of [acme, globex])
        await Promise.all(Object.values(streams).map((stream) => stream.cut()));
      await otherNode.close();
      await node.close();
      await proxy.close();
      await database.drop();
    },
  };
}

async function settle(node: Service, id: string): Promise<Tenant> {
  const { url } = node;
  const callers = callersOf(id);
  const { user, billing, shop, operator, admin } = callers;
  const [only, past] = [`${id}-only`, `${id}-past`];
  const note = (to: object) => ({ to, type: 'note', data: `of ${id}` });
  const ok = async (method: string, path: string, token: string, body?: unknown, headers = {}) => {
    const answer = await call(method, `${url}${path}`, token, body, headers);
    if (answer.status >= 300) throw new Error(`${method} ${path} was answered ${answer.status}`);
    return answer.body;
  };

  await ok('POST', '/v1/notifications', billing, ORDER, { 'idempotency-key': KEY });
  // These came, and left.
  for (const [name, device] of [
    ['alice', 'phone'],
    ['alice', 'tablet'],
    ['bob', 'bobs'],
  ] as const)
    await visit(node, user(name, { topics: ['news'] }), { device });
  const streams = {
    bob: await StreamClient.open(url, user('bob', { topics: ['news'] }), { query: { device: 'phone' } }),
    only: await StreamClient.open(url, user(only, { topics: ['news', only] }), { query: { device: only } }),
  };
  for (const stream of Object.values(streams)) await stream.untilEvent('caught-up');
  const published = {
    alice: await publish(url, billing, note({ user: 'alice' })),
    bob: await publish(url, shop, note({ user: 'bob' })),
    everyone: await publish(url, billing, note({ everyone: true })),
  };
  for (const to of [{ user: past }, { topic: past }])
    await publish(url, billing, { ...note(to), type: past });
  const last = await publish(url, billing, note({ topic: only }));
  await streams.bob.untilNotifications(2);
  await streams.only.untilNotifications(2);
  await ok('POST', '/v1/acks', user('bob'), { device: 'phone', upTo: published.everyone.position });
  await ok('POST', '/v1/inbox/marks', user('alice'), { items: [{ id: published.alice.id, read: true }] });
  for (const body of [{ user: 'gone' }, { user: past }, { token: { jti: `jti-${past}` } }])
    await ok('POST', '/v1/revocations', operator, body);
  const issuer = new KeyIssuer(`https://id.${id}.example`);
  const { id: issuerId } = await ok('POST', '/v1/issuers', admin, issuer.registration({ tenant: id }));

  // Not of who is erased: that order goes with the erasure.
  await ok('POST', `/v1/users/${past}/disconnect`, operator);
  await ok('DELETE', '/v1/users/nobody/data', operator);
  const [erased] = await node.database.query<{ erasure_id: string }>(
    'select erasure_id from erasures where tenant_id = $1',
    [id],
  );

  const ticket = async (name: string) =>
    (await post<{ ticket: string }>(`${url}/v1/stream/tickets`, user(name), {})).body.ticket;
  const idOf = async (stream: StreamClient) => String((await stream.untilEvent('sync'))['connectionId']);
  const tenant: Tenant = {
    ...callers,
    id,
    only,
    past,
    published,
    streams,
    connections: { bob: await idOf(streams.bob), only: await idOf(streams.only) },
    issuer,
    issuerId: String(issuerId),
    erasure: erased?.erasure_id ?? '',
    async publish(headers = {}) {
      return (await post<StoredAnswer>(`${url}/v1/notifications`, billing, ORDER, headers)).body;
    },
    unspent: await ticket('alice'),
    ticket,
  };
  // What the streams got is stored.
  for (const [{ id: got }, devices] of [
    [published.everyone, 2],
    [last, 1],
  ] as const)
    await eventually(async () => {
      const { items } = await ok('GET', `/v1/notifications/${got}/devices`, operator);
      if (!Array.isArray(items) || items.length < devices) throw new Error('it is not written yet');
    });
  return tenant;
}

/** `nextCursor` of a listing that has more than one item for this caller. */
export async function cursorOf(url: string, path: string, token: string): Promise<string> {
  const { body } = await get<{ nextCursor?: string | null }>(`${url}${path}?limit=1`, token);
  if (typeof body.nextCursor !== 'string') throw new Error(`${path} has one page only`);
  return body.nextCursor;
}

/** Opens a stream, and leaves when it has caught up. All of that is in the database when this returns. */
export async function visit(
  { url, database }: Service,
  token: string | undefined,
  query: Record<string, string>,
): Promise<void> {
  const stream = await StreamClient.open(url, token, { query });
  await stream.untilEvent('caught-up');
  await stream.cut();
  await untilRecorded(database, stream.named('sync').at(0)?.['connectionId']);
}

/** A stream is over, and all of it is stored: its end is written last. */
export async function untilRecorded(database: TestDatabase, connectionId: unknown): Promise<void> {
  await eventually(async () => {
    const [row] = await database.query(
      'select from connections where connection_id = $1 and until is not null',
      [connectionId],
    );
    if (row === undefined) throw new Error('it is not written yet');
  });
}
