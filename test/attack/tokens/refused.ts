import { randomUUID } from 'node:crypto';
import { expect } from '@jest/globals';
import { SERVICE_SCOPES } from '../../../src/core/identifiers.ts';
import type { TestDatabase } from '../../support/database.ts';
import { eventually } from '../../support/eventually.ts';
import { TEST_ISSUER, userToken } from '../../support/tokens.ts';
import type { Door } from './doors.ts';
import type { Stage } from './stage.ts';

export interface Answered {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly headers: Headers;
  /** Status line aside, everything that came back. */
  readonly text: string;
}

const NOTIFICATION = JSON.stringify({ to: { everyone: true }, type: 'attack', data: 'from nobody' });

/** Some of what the token of a service opens, with what its handler would leave behind: one for a scope, since their number is large. */
const OF_SERVICES: readonly Door[] = [
  { method: 'POST', path: '/v1/notifications', body: NOTIFICATION },
  { method: 'GET', path: '/v1/notifications', body: undefined },
  { method: 'POST', path: '/v1/revocations', body: '{"user":"alice"}' },
  { method: 'POST', path: '/v1/tenants', body: '{"id":"of-mallory"}' },
];

/** Sends one request, and gives its answer once the log has the line that it ends with. */
export async function ask(
  { url, log }: Pick<Stage, 'url' | 'log'>,
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: string,
): Promise<Answered> {
  const requestId = randomUUID();
  const response = await fetch(url + path, {
    method,
    headers: {
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      'x-request-id': requestId,
      ...headers,
    },
    body: body ?? null,
    signal: AbortSignal.timeout(60_000),
  });
  if (response.headers.get('content-type')?.startsWith('text/event-stream') === true) {
    await response.body?.cancel();
    throw new Error(`${method} ${path} opened a stream`);
  }
  const text = await response.text();
  await eventually(() => expect(log.some((line) => line.includes(requestId))).toBe(true));
  return {
    status: response.status,
    headers: response.headers,
    body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>),
    text: text + JSON.stringify([...response.headers]),
  };
}

/** What handlers leave in the database before they answer; the record of a connection comes a little later. */
export async function traces(database: TestDatabase): Promise<Record<string, unknown>> {
  const [row] = await database.query(
    `select (select count(*) from notifications) as notifications,
       (select count(*) from devices) as devices, (select count(*) from acks) as acks,
       (select count(*) from stream_tickets) as tickets, (select count(*) from stream_commands) as orders,
       (select count(*) from tenants) as tenants, (select count(*) from audit_log) as audited`,
  );
  return row ?? {};
}

/**
 * Tries a token at every door of users and at some of services, and as the token of a renewal. It has to be refused at each with the same code, nothing
 * may have happened, and neither an answer nor the log may hold any of it.
 */
export async function expectRefused(
  stage: Stage,
  token: string,
  { status = 401, code = 'token_invalid', detail }: { status?: number; code?: string; detail: string },
): Promise<void> {
  const before = await traces(stage.database);
  const mark = stage.log.length;
  const answers: Answered[] = [];
  for (const { method, path, body } of [...stage.doors, ...OF_SERVICES]) {
    answers.push(await ask(stage, method, path, { authorization: `Bearer ${token}` }, body));
  }
  const renewal = JSON.stringify({ connectionId: randomUUID(), token });
  answers.push(
    await ask(stage, 'POST', '/v1/stream/renewals', { authorization: `Bearer ${userToken()}` }, renewal),
  );
  for (const answer of answers) {
    expect({ ...answer, challenge: answer.headers.get('www-authenticate') }).toMatchObject({
      status,
      body: { code, detail: expect.stringContaining(detail) },
      challenge: status === 401 ? expect.stringContaining('error="invalid_token"') : null,
    });
  }
  expect(await traces(stage.database)).toEqual(before);
  expectNothingOf(token, [...answers.map(({ text }) => text), ...stage.log.slice(mark)]);
}

/** None of `places` holds the token, a part of it, or a name or text that stands in it. */
export function expectNothingOf(token: string, places: readonly string[]): void {
  const parts = token.split('.');
  const secrets = [token, ...parts, ...parts.slice(0, 2).flatMap(textsIn)].filter((text) => text.length >= 6);
  for (const place of places) {
    for (const secret of secrets) expect(place).not.toContain(secret);
  }
}

/** Words of this service, which its answers may use although a token does, too. */
const OWN_WORDS: ReadonlySet<string> = new Set([
  ...SERVICE_SCOPES,
  TEST_ISSUER,
  ...['at+jwt', 'tenant_id', 'topics', 'device', 'tenant', 'tenants', 'length'],
]);

/** The texts and names in one part of a token, as they are and as JSON writes them. */
function textsIn(part: string): string[] {
  const found: string[] = [];
  try {
    JSON.parse(Buffer.from(part, 'base64url').toString(), (name, value: unknown) => {
      found.push(name, ...(typeof value === 'string' ? [value] : []));
      return value;
    });
  } catch {
    // It is no JSON, and there is nothing in it to find.
  }
  return found
    .filter((text) => text.length >= 6 && !OWN_WORDS.has(text))
    .flatMap((text) => [text, JSON.stringify(text).slice(1, -1)]);
}
