import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { ERRORS } from '../../../src/core/errors.ts';
import { InboxFeed } from '../../../src/delivery/inbox-feed.ts';
import { revokeToken } from '../../../test/support/acts.ts';
import { publish } from '../../../test/support/api.ts';
import { startService, type Service } from '../../../test/support/app.ts';
import { serviceToken, userToken } from '../../../test/support/tokens.ts';
import { createFakeService, type FakeService, type Publication } from '../src/testing.ts';
import { PROBLEMS } from '../src/testing/problems.ts';
import { Script, TooLate, type Stage, type TokenOptions } from './script.ts';

/*
 * The same scripts against the fake and against the service: what they are answered and what they are told has to be the same, but
 * for ids, positions and times. A fake that differs would be worse than none.
 */

const HEARTBEAT_SECONDS = 1;
/** In seconds. */
const MOST_PATIENCE = 16;

type Play = (script: Script) => Promise<void>;

let service: Service;
/** All at once, each in a tenant of its own: most of their time they wait for what takes its time. */
const plays = new Map<string, Play>();
const played = new Map<string, PromiseSettledResult<string[][]>>();

beforeAll(async () => {
  // Without the poll, which finds out again what streams were told.
  service = await startService({ LOG_POLL_MS: 3_600_000, HEARTBEAT_SECONDS: String(HEARTBEAT_SECONDS) });
  const [[alone, first] = [], ...others] = plays;
  // It has the streams of all tenants compared with the database.
  if (alone !== undefined && first !== undefined)
    played.set(alone, (await Promise.allSettled([playedOnBoth(first)]))[0]);
  const results = await Promise.allSettled(others.map(([, play]) => playedOnBoth(play)));
  for (const [index, [name]] of others.entries()) {
    const result = results[index];
    if (result !== undefined) played.set(name, result);
  }
});
afterAll(async () => {
  await service.close();
});

class RealStage implements Stage {
  readonly url = service.url;
  readonly fetch = globalThis.fetch;
  readonly #publisher: string;
  readonly #jtis = new Map<string, string>();

  constructor(readonly tenant: string) {
    this.#publisher = serviceToken({ tenant });
  }

  token({ user, topics, device, lifetimeSeconds = 3_600 }: TokenOptions): string {
    const jti = randomUUID();
    const token = userToken({
      tenant: this.tenant,
      user,
      ...(topics === undefined ? {} : { topics: [...topics] }),
      ...(device === undefined ? {} : { device }),
      expiresInSeconds: lifetimeSeconds,
      claims: { jti },
    });
    this.#jtis.set(token, jti);
    return token;
  }

  async publish(publication: Publication) {
    return await publish(this.url, this.#publisher, { ...publication });
  }

  async retain(upTo: string): Promise<void> {
    await service.database.query('update tenant_logs set floor = $2 where tenant_id = $1', [
      this.tenant,
      upTo,
    ]);
    await service.database.query('delete from notifications where tenant_id = $1 and position <= $2', [
      this.tenant,
      upTo,
    ]);
    await service.app.get(InboxFeed).compare();
  }

  async revoke(token: string): Promise<void> {
    await revokeToken(service, this.tenant, this.#jtis.get(token) ?? '');
  }
}

class FakeStage implements Stage {
  readonly url = 'https://tidings.test';
  readonly fetch: typeof globalThis.fetch;
  readonly #fake: FakeService;

  constructor(readonly tenant: string) {
    this.#fake = createFakeService({ tenant, heartbeatSeconds: HEARTBEAT_SECONDS });
    this.fetch = this.#fake.fetch;
  }

  token({ lifetimeSeconds = 3_600, ...options }: TokenOptions): string {
    return this.#fake.token({ ...options, lifetimeMs: lifetimeSeconds * 1_000 });
  }

  publish(publication: Publication) {
    return Promise.resolve(this.#fake.publish(publication));
  }

  retain(upTo: string): Promise<void> {
    this.#fake.faults.retain(upTo);
    return Promise.resolve();
  }

  revoke(token: string): Promise<void> {
    this.#fake.faults.revoke(token);
    return Promise.resolve();
  }
}

/** Where it was too late for something it is played anew, with more patience. */
async function playedOnBoth(play: Play, patience = 1): Promise<string[][]> {
  const tenant = `t-${randomUUID().slice(0, 8)}`;
  const results = await Promise.allSettled(
    [new RealStage(tenant), new FakeStage(tenant)].map(async (stage) => {
      const script = new Script(stage, patience);
      try {
        await play(script);
      } finally {
        script.cutAll();
      }
      return script.transcript();
    }),
  );
  const isLate = results.some((result) => result.status === 'rejected' && result.reason instanceof TooLate);
  if (isLate && patience < MOST_PATIENCE) return await playedOnBoth(play, 2 * patience);
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason;
    return result.value;
  });
}

/** That both say the same when they are asked the same. */
function same(name: string, play: Play): void {
  plays.set(name, play);
  test.each([name])('%s', () => {
    const result = played.get(name);
    if (result?.status !== 'fulfilled') throw result?.reason;
    const [real = [], fake = []] = result.value;
    expect(real.length).toBeGreaterThan(0);
    expect(fake).toEqual(real);
  });
}

const own = { to: { user: 'alice' }, type: 'order.shipped', data: { n: 1 } } as const;
const everyone = { to: { everyone: true }, type: 'news', data: 'ü€😀\r\n' } as const;
const topic = (name: string) => ({ to: { topic: name }, type: 'topic.x', data: [null, 1.5] }) as const;

describe('a stream', () => {
  same('meets a gap where retention was', async (script) => {
    const token = script.token({ user: 'alice' });
    const watching = await script.open('watching', token, { inbox: '1', device: 'watching' });
    await watching.inboxes(1);
    const early = await script.publish(own);
    const middle = await script.publish(own);
    await script.publish(own);
    await watching.notifications(3);
    await script.ask('POST', '/v1/inbox/marks', token, { items: [{ id: middle.id, read: true }] });
    await watching.inboxes(2);
    (await script.open('old', script.token({ user: 'bob' }), { device: 'a' })).cut();
    await script.retain(middle.position);
    await watching.inboxes(3);
    (await script.open('gap', token, { lastEventId: early.position })).cut();
    (await script.open('cursor', script.token({ user: 'bob' }), { device: 'a' })).cut();
    (await script.open('at the floor', token, { lastEventId: middle.position })).cut();
    await script.ask('GET', '/v1/inbox', token);
  });

  same('begins, goes on and comes back', async (script) => {
    const token = script.token({ user: 'alice', topics: ['a'] });
    await script.publish(own);
    const first = await script.open('first', token, { device: 'laptop' });
    await script.publish(everyone);
    await script.publish(topic('b'));
    await script.publish(topic('a'));
    await script.publish({ ...own, inbox: false });
    await first.notifications(4);
    first.cut();
    await script.publish(own);
    const second = await script.open('second', token, { device: 'laptop', lastEventId: first.lastId });
    second.cut();
    (await script.open('nothing new', token, { device: 'laptop', lastEventId: second.lastId })).cut();
    // The resume has confirmed, and a new device begins where the first has got to.
    (await script.open('phone', token, { device: 'phone' })).cut();
    (
      await script.open('the header wins', token, { lastEventId: '0' }, { 'last-event-id': second.lastId })
    ).cut();
  });

  same('begins where it is asked to', async (script) => {
    const token = script.token({ user: 'alice' });
    await script.publish(own);
    (await script.open('latest', token, { from: 'latest' })).cut();
    const late = await script.publish(own);
    (await script.open('the cursor has moved', token)).cut();
    (await script.open('earliest', token, { from: 'earliest' })).cut();
    (await script.open('malformed', token, { lastEventId: 'x1' })).cut();
    (await script.open('ahead', token, { lastEventId: String(Number(late.position) + 1) })).cut();
    (await script.open('ahead, latest', token, { lastEventId: '01', from: 'latest', device: 'tv' })).cut();
    (await script.open('auto', token, { ack: 'auto', device: 'auto', unknown: '1' })).cut();
  });

  same('of a device that a token names ignores what the address says', async (script) => {
    const token = script.token({ user: 'alice', device: 'claimed' });
    (await script.open('claimed', token, { device: 'other' })).cut();
    await script.ask('POST', '/v1/acks', token, { upTo: '0', device: 'other' });
  });

  same('has a heartbeat, which brings the position along', async (script) => {
    const stream = await script.open('beats', script.token({ user: 'alice' }));
    await stream.comments(2);
    await script.publish({ ...own, to: { user: 'bob' } });
    await stream.events('position', 1);
  });

  same('says that its token ends, and ends before it', async (script) => {
    const token = script.token({ user: 'alice', lifetimeSeconds: 3 + script.patience });
    const stream = await script.inTime(() => script.open('short', token));
    await stream.end();
    await stream.events('bye', 1);
  });

  same('is renewed, also with other topics', async (script) => {
    const token = script.token({ user: 'alice', topics: ['a'] });
    const stream = await script.open('renewed', token, { inbox: '1' });
    await stream.inboxes(1);
    await script.publish(topic('b'));
    const other = script.token({ user: 'alice', topics: ['b'] });
    const renew = (caller: string, body: unknown) => script.ask('POST', '/v1/stream/renewals', caller, body);
    await renew(token, {
      connectionId: stream.connectionId,
      token: script.token({ user: 'alice', topics: ['a'] }),
    });
    await renew(token, { connectionId: stream.connectionId, token: other });
    await stream.inboxes(2);
    await script.publish(topic('a'));
    await script.publish(topic('b'));
    await stream.notifications(1);
    await renew(other, { connectionId: randomUUID(), token: other });
    await renew(other, { connectionId: stream.connectionId, token: script.token({ user: 'bob' }) });
    await renew(other, {
      connectionId: stream.connectionId,
      token: script.token({ user: 'alice', device: 'tv' }),
    });
    await renew(other, { connectionId: stream.connectionId, token: 'no.token' });
    await renew(other, { connectionId: 'no-uuid', token: '?' });
    await renew(other, {});
    await renew(script.token({ user: 'bob' }), { connectionId: stream.connectionId, token: other });
  });

  same('of a revoked token ends, and nothing else is let in with it', async (script) => {
    const token = script.token({ user: 'alice' });
    const stream = await script.open('revoked', token);
    await script.revoke(token);
    await stream.end();
    await script.ask('GET', '/v1/stream', token);
    await script.ask('GET', '/v1/inbox/counts', token);
  });

  same('is opened by a ticket once', async (script) => {
    const token = script.token({ user: 'alice', topics: ['a'] });
    const { ticket } = await script.ask('POST', '/v1/stream/tickets', token, { device: 'tv' });
    (await script.open('by ticket', undefined, { ticket: String(ticket), device: 'other' })).cut();
    await script.ask('GET', `/v1/stream?ticket=${String(ticket)}`);
    await script.ask('GET', '/v1/stream?ticket=x');
    const second = await script.ask('POST', '/v1/stream/tickets', token);
    await script.ask('GET', `/v1/stream?ticket=${String(second['ticket'])}`, script.token({ user: 'bob' }));
    await script.ask('POST', '/v1/stream/tickets', token, { device: '' });
  });
});

describe('acknowledgements', () => {
  same('move the cursor of their device forward', async (script) => {
    const token = script.token({ user: 'alice' });
    const [first, second] = [await script.publish(own), await script.publish(own)];
    const acknowledge = (body: unknown) => script.ask('POST', '/v1/acks', token, body);
    await acknowledge({ upTo: first.position });
    (await script.open('known', token)).cut();
    await acknowledge({ upTo: second.position });
    await acknowledge({ upTo: first.position });
    (await script.open('after it', token)).cut();
    (await script.open('other', token, { device: 'other' })).cut();
    await acknowledge({ upTo: String(Number(second.position) + 1) });
    await acknowledge({ upTo: first.position, device: 'never' });
    await acknowledge({ upTo: 1 });
    await acknowledge({ upTo: '01', device: 'ü', more: 1 });
    await acknowledge({});
    await acknowledge([]);
  });
});

describe('the inbox', () => {
  same('lists what there is, by filters and page by page', async (script) => {
    const token = script.token({ user: 'alice', topics: ['a'] });
    await script.ask('GET', '/v1/inbox/counts', token);
    const stored: { id: string; position: string }[] = [];
    for (let n = 0; n < 3; n += 1)
      for (const one of [own, everyone, topic('a'), topic('b'), { ...own, inbox: false }])
        stored.push(await script.publish(one));
    const at = (n: number) => stored[n]?.position;
    const id = (n: number) => stored[n]?.id;
    await script.ask('POST', '/v1/inbox/marks', token, {
      seenUpTo: at(10),
      readUpTo: at(5),
      archivedUpTo: at(1),
      items: [
        { id: id(0), archived: false },
        { id: id(2), read: false },
        { id: id(7), read: true },
        { id: id(10), archived: true },
        { id: id(3), read: true },
        { id: id(4), read: true },
        { id: randomUUID(), read: true },
      ],
    });
    for (const filter of ['all', 'unread', 'unseen', 'archived'])
      for (const more of ['', '&type=order.', '&type=none', '&limit=2'])
        await script.pages(`/v1/inbox?filter=${filter}${more}`, token);
    await script.pages('/v1/inbox?limit=3', script.token({ user: 'alice' }));
    const { nextCursor } = await script.ask('GET', '/v1/inbox?limit=1', token);
    await script.ask('GET', `/v1/inbox?limit=1&filter=unread&cursor=${String(nextCursor)}`, token);
    for (const query of [
      'limit=0',
      'limit=201',
      'limit=x',
      'filter=x',
      'type=%20',
      'more=1',
      'cursor=%C3%BC',
      'limit=1&limit=2',
    ])
      await script.ask('GET', `/v1/inbox?${query}`, token);
    await script.ask('GET', '/v1/inbox/counts?x=1', token);
  });

  same('begins when it is first asked for', async (script) => {
    const token = script.token({ user: 'alice', topics: ['a'] });
    for (const one of [own, everyone, topic('a')]) await script.publish(one);
    await script.ask('GET', '/v1/inbox', token);
    await script.publish(everyone);
    await script.ask('GET', '/v1/inbox', token);
    // What was confirmed by then counts as read.
    const bob = script.token({ user: 'bob' });
    const confirmed = await script.publish({ ...own, to: { user: 'bob' } });
    await script.publish({ ...own, to: { user: 'bob' } });
    (await script.open('bob', bob)).cut();
    await script.ask('POST', '/v1/acks', bob, { upTo: confirmed.position });
    await script.publish(everyone);
    await script.ask('GET', '/v1/inbox', bob);
    // A stream has it begin at the head that it was opened at.
    const stream = await script.open('carol', script.token({ user: 'carol' }), { inbox: '1' });
    await stream.inboxes(1);
    await script.publish(everyone);
    await stream.notifications(3);
    await script.ask('GET', '/v1/inbox', script.token({ user: 'carol' }));
  });

  same('tells streams what was said, by whichever device', async (script) => {
    const token = script.token({ user: 'alice' });
    const stream = await script.open('told', token, { inbox: '1' });
    await stream.inboxes(1);
    const stored: { id: string; position: string }[] = [];
    for (let n = 0; n < 60; n += 1) stored.push(await script.publish(own));
    await stream.notifications(60);
    let told = 1;
    const say = async (body: unknown, isNew = true) => {
      const answer = await script.ask('POST', '/v1/inbox/marks', token, body);
      if (isNew) await stream.inboxes((told += 1));
      return answer;
    };
    const [first, second, third] = stored;
    const id = first?.id;
    await say({ items: [{ id, read: true }] });
    await say({ items: [{ id, read: true }] }, false);
    const { revision } = await say({ items: [{ id: id?.toUpperCase(), read: false, archived: true }] });
    await say({ items: [{ id: second?.id, read: false }] });
    // Held up since before the last: it leaves that alone.
    await say({ readUpTo: third?.position, revision });
    await say({ readUpTo: second?.position }, false);
    await say({ readUpTo: third?.position }, true);
    await say({ seenUpTo: stored[20]?.position });
    await say({ archivedUpTo: stored[3]?.position });
    await say({ items: stored.slice(5, 58).map((one) => ({ id: one.id, archived: true })) });
    const late = await script.open('late', token, { inbox: '1', lastEventId: stored[59]?.position ?? '' });
    await late.inboxes(1);
    late.cut();
    await say({ readUpTo: stored[59]?.position, archivedUpTo: stored[59]?.position });
    await say({}, false);
  });

  same('forgets what has expired, and tells that', async (script) => {
    const token = script.token({ user: 'alice' });
    const stream = await script.open('expiry', token, { inbox: '1' });
    await stream.inboxes(1);
    const late = script.later('late', 3_600_000);
    const soon = script.later('soon', 1_000 * script.patience + 500);
    await script.inTime(async () => {
      await script.publish({ ...own, expiresAt: soon });
      await script.publish({ ...own, expiresAt: late });
      await stream.notifications(2);
      const { position } = await script.ask('GET', '/v1/inbox', token);
      // Only by what it is told now it knows when the first of them expires.
      await script.ask('POST', '/v1/inbox/marks', token, { seenUpTo: position });
      await stream.inboxes(2);
    });
    await stream.inboxes(3);
    await script.ask('GET', '/v1/inbox', token);
    (await script.open('later', token)).cut();
  });

  same('refuses what it cannot mean', async (script) => {
    const token = script.token({ user: 'alice' });
    const { id, position } = await script.publish(own);
    const mark = (body: unknown) => script.ask('POST', '/v1/inbox/marks', token, body);
    await mark({ readUpTo: String(Number(position) + 1), seenUpTo: position });
    await mark({
      readUpTo: position,
      archivedUpTo: String(Number(position) + 1),
      seenUpTo: String(Number(position) + 2),
    });
    await mark({ readUpTo: 1, revision: 'x', more: true });
    await mark({ items: [{ id }] });
    await mark({
      items: [
        { id, read: true },
        { id, read: false },
      ],
    });
    await mark({
      items: [
        { id: 'x', read: 'yes' },
        { read: true, more: 1 },
      ],
    });
    await mark({ items: Array.from({ length: 201 }, () => ({ id: randomUUID(), read: true })) });
    await mark({ items: { id } });
    await mark('{"readUpTo"');
    await mark('null');
  });

  /** As chance has it: the same acts, and the same of them on both. */
  for (const seed of [1, 2, 3, 4, 5, 6])
    same(`is the same after anything that users do (${seed})`, (script) => script.live(seed, 60));
});

describe('errors', () => {
  same('of credentials and paths are those of the service', async (script) => {
    const token = script.token({ user: 'alice' });
    for (const [method, path] of [
      ['GET', '/v1/stream'],
      ['POST', '/v1/acks'],
      ['GET', '/v1/inbox'],
      ['POST', '/v1/session'],
    ] as const) {
      await script.ask(method, path);
      await script.ask(method, path, 'no-token');
      await script.ask(method, `${path}?access_token=${token}`, token);
    }
    await script.ask('GET', '/v1/nothing', token);
    await script.ask('GET', '/v1/acks', token);
    await script.ask('DELETE', '/v1/inbox', token);
    await script.ask('GET', '/v1/stream?device=&from=x&ack=x&inbox=0', token);
    await script.ask('POST', '/v1/session', token);
    await script.ask('DELETE', '/v1/session');
    await script.ask('POST', '/v1/acks', token, '{"upTo":"0"}', { 'content-type': 'text/plain' });
    await script.ask('POST', '/v1/acks', token, '{"upTo":"0"', { 'content-type': 'application/json' });
    const over = script.token({ user: 'alice', lifetimeSeconds: -1 });
    await script.ask('GET', '/v1/stream', over);
    await script.ask('GET', '/v1/inbox/counts', over);
    await script.ask('GET', '/v1/inbox/counts', script.token({ user: 'alice', lifetimeSeconds: -60 }));
  });

  test('have the status and the title that the service gives them', () => {
    const known = Object.entries(PROBLEMS).map(([code, [status, title]]) => [code, { status, title }]);
    expect(ERRORS).toMatchObject(Object.fromEntries(known));
  });
});
