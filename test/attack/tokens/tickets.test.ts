import { createHash, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createParser } from 'eventsource-parser';
import { post } from '../../support/api.ts';
import type { Service } from '../../support/app.ts';
import { storedHash } from '../../support/stored-ticket.ts';
import { userToken } from '../../support/tokens.ts';
import type { Door } from './doors.ts';
import { ask, traces } from './refused.ts';
import { setStage, type Stage } from './stage.ts';

/* A ticket stands in a URL: it is seen by proxies, histories and whoever looks over a shoulder. */

let stage: Stage;
let elsewhere: Service;
beforeAll(async () => {
  stage = await setStage();
  elsewhere = await stage.startNode();
});
afterAll(async () => {
  await elsewhere.close();
  await stage.close();
});

async function ticketFor(token: string, body: object = {}): Promise<string> {
  const answer = await post<{ ticket: string }>(`${stage.url}/v1/stream/tickets`, token, body);
  expect(answer.status).toBe(201);
  return answer.body.ticket;
}

interface Outcome {
  readonly status: number | undefined;
  readonly sync: Record<string, unknown> | undefined;
  readonly code: string | undefined;
  readonly raw: string;
}

/** Opens a stream with this query as it is, and closes it once it is known what became of it. */
async function open(query: string, url = stage.url, headers: Record<string, string> = {}): Promise<Outcome> {
  const response = await fetch(`${url}/v1/stream?${query}`, { headers });
  const status = response.status;
  if (status !== 200) {
    const raw = await response.text();
    const { code } = JSON.parse(raw) as { code?: string };
    return { status, sync: undefined, code, raw };
  }
  let raw = '';
  let sync: Record<string, unknown> | undefined;
  const parser = createParser({
    onEvent: ({ event, data }) => {
      if (event === 'sync') sync = JSON.parse(data) as Record<string, unknown>;
    },
  });
  const utf8 = new TextDecoder();
  for await (const bytes of response.body ?? []) {
    const text = utf8.decode(bytes, { stream: true });
    raw += text;
    parser.feed(text);
    if (sync !== undefined) break;
  }
  return { status, sync, code: undefined, raw };
}

const ticketQuery = (ticket: string) => `ticket=${encodeURIComponent(ticket)}`;
const REFUSED = { status: 401, code: 'ticket_invalid', sync: undefined };

/** A ticket leaves its text nowhere, whether it was taken or not. */
function expectUnsaid(ticket: string, outcome?: Outcome): void {
  const secret = ticket.split('.')[1] ?? ticket;
  for (const text of [...(outcome === undefined ? [] : [outcome.raw]), ...stage.log]) {
    expect(text).not.toContain(secret);
  }
}

describe('fifty who come at once with one ticket', () => {
  test.each([1, 2, 3])('through two nodes are one who is let in (race %d)', async () => {
    const ticket = await ticketFor(userToken({ user: 'racer' }));
    const outcomes = await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        open(ticketQuery(ticket), i % 2 === 0 ? stage.url : elsewhere.url),
      ),
    );
    expect(outcomes.filter(({ status }) => status === 200)).toHaveLength(1);
    expect(outcomes.filter(({ sync }) => sync !== undefined)).toHaveLength(1);
    expect(outcomes.filter(({ status, code }) => status === 401 && code === 'ticket_invalid')).toHaveLength(
      49,
    );
    expect(await open(ticketQuery(ticket), elsewhere.url)).toMatchObject(REFUSED);
    expectUnsaid(ticket);
  });
});

describe('a ticket that was tampered with', () => {
  let ticket: string;
  const prefix = () => ticket.split('.')[0] ?? '';
  const secret = () => ticket.split('.')[1] ?? '';
  const of = (tenant: string) => Buffer.from(tenant).toString('base64url');
  beforeEach(async () => {
    ticket = await ticketFor(userToken({ tenant: 'globex' }));
  });

  test.each<[string, () => string]>([
    ['has the tenant of another', () => `${of('acme')}.${secret()}`],
    ['has a tenant that looks alike', () => `${of('Globex')}.${secret()}`],
    ['has a tenant with NUL', () => `${of('globex\u0000')}.${secret()}`],
    ['has a tenant that is SQL', () => `${of("globex' or '1'='1")}.${secret()}`],
    ['has a wildcard for its tenant', () => `${of('%')}.${secret()}`],
    ['has a prototype for its tenant', () => `${of('__proto__')}.${secret()}`],
    ['has no tenant', () => `.${secret()}`],
    ['has its tenant unencoded', () => `globex.${secret()}`],
    ['has its tenant in another alphabet', () => `${prefix()}==.${secret()}`],
    ['has its tenant in a longer spelling', () => `${prefix()}A.${secret()}`],
    ['has two tenants', () => `${of('acme')}.${ticket}`],
    ['has no secret', () => `${prefix()}.`],
    ['has a secret of zeros', () => `${prefix()}.${'A'.repeat(64)}`],
    ['has a shorter secret', () => ticket.slice(0, -1)],
    ['has a longer secret', () => `${ticket}A`],
    ['has a seal whose last bit differs', () => ticket.slice(0, -1) + sibling(ticket.at(-1) ?? 'A')],
    ['has a secret in other capitals', () => `${prefix()}.${swapped(secret())}`],
    ['has a line end', () => `${ticket}\n`],
    ['has NUL', () => `${ticket}\u0000`],
    ['has a space', () => ` ${ticket}`],
    ['is its own hash', () => `${prefix()}.${createHash('sha384').update(ticket).digest('base64url')}`],
    ['is doubled', () => ticket + ticket],
    ['is 8 KiB long', () => `${prefix()}.${'A'.repeat(8_000)}`],
  ])('(it %s) opens nothing, and the true one stays good', async (_, tamper) => {
    const before = await traces(stage.database);
    const forged = tamper();
    expect(forged).not.toBe(ticket);
    const outcome = await open(ticketQuery(forged));
    expect(outcome).toMatchObject(REFUSED);
    expect(await traces(stage.database)).toEqual(before);
    expectUnsaid(forged.includes('.') && forged.split('.')[1] !== '' ? forged : ticket, outcome);
    expect(await open(ticketQuery(ticket))).toMatchObject({ status: 200, sync: { device: 'default' } });
  });

  test('(each of its characters in turn) opens nothing', async () => {
    const forged = Array.from(ticket, (character, i) => {
      const other = character === '.' ? '-' : sibling(character);
      return ticket.slice(0, i) + other + ticket.slice(i + 1);
    });
    const outcomes = await Promise.all(forged.map((each) => open(ticketQuery(each))));
    for (const outcome of outcomes) expect(outcome).toMatchObject(REFUSED);
    expect(await open(ticketQuery(ticket))).toMatchObject({ status: 200 });
  });

  test.each<[string, (ticket: string) => string]>([
    ['sent twice', (good) => `ticket=${good}&ticket=${good}`],
    ['sent beside another', (good) => `ticket=${good}&ticket=x`],
    ['sent as a list', (good) => `ticket[]=${good}`],
    ['sent as an object', (good) => `ticket[a]=${good}`],
    ['sent under another name', (good) => `Ticket=${good}`],
  ])('(%s) opens nothing', async (_, query) => {
    const outcome = await open(query(ticket));
    expect(outcome.sync).toBeUndefined();
    expect([400, 401]).toContain(outcome.status);
    expectUnsaid(ticket, outcome);
  });
});

describe('a ticket of somebody else', () => {
  test('opens the stream of its own user, device and tenant, whatever the query says', async () => {
    const ticket = await ticketFor(userToken({ tenant: 'globex', user: 'alice' }), { device: 'phone' });
    const opened = await open(`${ticketQuery(ticket)}&device=laptop`);
    expect(opened).toMatchObject({ status: 200, sync: { device: 'phone' } });
    expect(
      await stage.database.query(`select tenant_id, user_id from devices where device_id = 'phone'`),
    ).toEqual([{ tenant_id: 'globex', user_id: 'alice' }]);
  });

  test('cannot name another tenant or user in the query', async () => {
    for (const [n, name] of ['tenant', 'tenant_id', 'user', 'sub', 'topics'].entries()) {
      const ticket = await ticketFor(userToken({ tenant: 'initech' }), { device: `d${n}` });
      const outcome = await open(`${ticketQuery(ticket)}&${name}=globex`);
      expect(outcome).toMatchObject({ status: 200, sync: { device: `d${n}` } });
      expect(
        await stage.database.query(`select tenant_id, user_id from devices where device_id = 'd${n}'`),
      ).toEqual([{ tenant_id: 'initech', user_id: 'alice' }]);
    }
  });

  test.each<[string, string]>([
    ['of another user', userToken({ user: 'mallory-user' })],
    ['of another tenant', userToken({ tenant: 'globex' })],
  ])('is refused beside a token %s', async (_, token) => {
    const ticket = await ticketFor(userToken());
    const outcome = await open(ticketQuery(ticket), stage.url, { authorization: `Bearer ${token}` });
    expect(outcome).toMatchObject({ status: 401, code: 'credentials_conflict', sync: undefined });
    expectUnsaid(ticket, outcome);
  });

  test('for a device that the token does not name is not made', async () => {
    const ticket = await ticketFor(userToken({ device: 'watch' }), { device: 'phone' });
    expect(await open(ticketQuery(ticket))).toMatchObject({ status: 200, sync: { device: 'watch' } });
  });

  test('made by another installation is unknown here', async () => {
    const stranger = `${Buffer.from('acme').toString('base64url')}.${randomBytes(48).toString('base64url')}`;
    expect(await open(ticketQuery(stranger))).toMatchObject(REFUSED);
  });
});

describe('a ticket is no credential but for a stream', () => {
  const expectNone = async ({ method, path, body }: Door) => {
    const ticket = await ticketFor(userToken());
    const before = await traces(stage.database);
    const inQuery = await ask(stage, method, `${path}?${ticketQuery(ticket)}`, {}, body);
    const asToken = await ask(stage, method, path, { authorization: `Bearer ${ticket}` }, body);
    const asCookie = await ask(
      stage,
      method,
      path,
      { cookie: `__Host-tidings=${ticket}`, 'sec-fetch-site': 'same-origin' },
      body,
    );
    for (const answer of [inQuery, asToken, asCookie]) {
      expect(answer.status).toBe(401);
      expect(answer.text).not.toContain(ticket);
      expect(answer.headers.get('set-cookie')).toBeNull();
    }
    expect(await traces(stage.database)).toEqual(before);
    expectUnsaid(ticket);
    expect(await open(ticketQuery(ticket))).toMatchObject({ status: 200 });
  };

  test('of its user', async () => {
    // The stream is what a ticket is for.
    const others = stage.doors.filter(({ path }) => path !== '/v1/stream');
    expect(others).not.toEqual([]);
    for (const door of others) await expectNone(door);
  });

  test.each<Door>([
    { method: 'POST', path: '/v1/notifications', body: '{}' },
    { method: 'GET', path: '/v1/notifications', body: undefined },
    { method: 'POST', path: '/v1/revocations', body: '{}' },
  ])('of a service: $method $path', expectNone);
});

describe('what is stored of a ticket', () => {
  test('is found by its hash, and does not open anything by itself', async () => {
    const ticket = await ticketFor(userToken({ user: 'stored' }));
    const hash = storedHash(ticket);
    const rows = await stage.database.query<{ row: string; hash: Buffer }>(
      `select t.*::text as row, hash from stream_tickets t where hash = $1`,
      [hash],
    );
    expect(rows).toHaveLength(1);
    const [row] = rows;
    // Comparing hashes in an index tells a stranger nothing: what is compared cannot be chosen byte by byte.
    expect(row?.hash).toEqual(hash);
    expect(row?.row).not.toContain(ticket.split('.')[1]);
    expect(row?.row).not.toContain('notifications:publish');
    for (const text of [
      hash.toString('base64url'),
      hash.toString('hex'),
      `YWNtZQ.${hash.toString('base64url')}`,
    ]) {
      expect(await open(ticketQuery(text))).toMatchObject(REFUSED);
    }
    expect(await open(ticketQuery(ticket))).toMatchObject({ status: 200 });
    expect(await stage.database.query('select 1 from stream_tickets where hash = $1', [hash])).toEqual([]);
  });
});

/** Another character of the alphabet that differs in its last bit. */
function sibling(character: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  return alphabet.charAt(alphabet.indexOf(character) ^ 1);
}

const swapped = (text: string): string =>
  Array.from(text, (character) =>
    character === character.toUpperCase() ? character.toLowerCase() : character.toUpperCase(),
  ).join('');
