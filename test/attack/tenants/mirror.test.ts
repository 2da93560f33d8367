import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { eventually } from '../../support/eventually.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { callerFor, callersOf } from './callers.ts';
import { goodRequest, NOT_VALID } from './attempt.ts';
import { operationsOf, type DocumentedOperation, type OperationKey } from '../document.ts';
import { ask, isStream, withParameter, type Answered, type Carried } from './request.ts';
import { setStage, untilRecorded, visit, type Stage } from './stage.ts';
import { attemptsOf, TABLE, type Case } from './table.ts';

/*
 * A tenant that has every row that acme has: the same ids, positions, keys, devices and connections. No caller can make
 * one; but beside it a statement that forgets whose rows it means finds twice as many, or changes the wrong ones.
 */

const MIRROR = 'mirror';

/** What is asked, and what it was answered when there was no mirror. */
interface Asked {
  readonly token: string | undefined;
  readonly request: Carried;
  readonly answer: unknown;
}

/** An operation with its good request, or with one of its parameters and what acme may name in it. */
interface Question {
  readonly operation: OperationKey;
  readonly own: Case | undefined;
  readonly title: string;
}

const isOfStream = ({ operation }: Question) => operation === 'GET /v1/stream';

/** Whoever lists the tenants of the installation sees the mirror, too. */
const OF_THE_INSTALLATION: OperationKey = 'GET /v1/tenants';

const QUESTIONS: readonly Question[] = (Object.keys(TABLE) as OperationKey[])
  .filter((key) => key.includes(' /v1/') && key !== OF_THE_INSTALLATION)
  .flatMap((operation) => [
    { operation, own: undefined, title: operation },
    ...attemptsOf(operation)
      .filter(({ own }) => own !== undefined)
      .map((own) => ({ operation, own, title: `${operation}, ${own.parameter}, as ${own.as.name}` })),
  ]);
/** The streams come last: what they were sent changes what history says. A ticket is good for one answer. */
const READS = QUESTIONS.filter(
  ({ operation, own }) => operation.startsWith('GET ') && own?.parameter !== 'query ticket',
).toSorted((a, b) => Number(isOfStream(a)) - Number(isOfStream(b)));
const WRITES = QUESTIONS.filter(({ operation }) => !operation.startsWith('GET '));

let stage: Stage;
let documented: Map<OperationKey, DocumentedOperation>;
const asked = new Map<string, Asked>();

beforeAll(async () => {
  stage = await setStage();
  documented = await operationsOf(stage.node.url);
  for (const question of READS.toReversed()) {
    const wish = await wishOf(question);
    asked.set(question.title, { ...wish, answer: await answerTo(question, wish) });
  }
  for (const table of stage.rows.tables)
    await stage.database.query(
      `insert into "${table}" select (jsonb_populate_record(null::"${table}", to_jsonb(t) || $1::jsonb)).*
       from "${table}" t where tenant_id = 'acme'`,
      [JSON.stringify({ tenant_id: MIRROR })],
    );
});
afterAll(() => stage.close());

async function wishOf({ operation, own }: Question): Promise<Omit<Asked, 'answer'>> {
  const access = documented.get(operation)?.access ?? 'public';
  const token = own === undefined ? callerFor(access, stage.acme) : own.as(stage);
  if (own?.own === undefined) return { token, request: goodRequest(TABLE, operation, stage, token) };
  const request = own.entry.request(stage, own.parameter, token);
  return { token, request: withParameter(request, own.parameter, await own.own.named(stage)) };
}

/** Without what is another in each. */
async function answerTo(
  { operation }: Question,
  { token, request }: Omit<Asked, 'answer'>,
): Promise<Answered> {
  const answer = await ask(stage.node.url, operation, token, request);
  if (!isStream(answer.body)) return { ...answer, body: withoutClock(answer.body) };
  const { connectionId, resume, events } = answer.body;
  await untilRecorded(stage.database, connectionId);
  return { ...answer, body: { resume, events: events.filter(({ event }) => event !== 'sync') } };
}

/** The numbers of an inbox say when they were read. */
function withoutClock(body: unknown): unknown {
  if (typeof body !== 'object' || body === null || !('at' in body)) return body;
  const { at: _, ...rest } = body;
  return rest;
}

const ofMirror = async () => (await stage.rows.look()).filter(({ tenant }) => tenant === MIRROR);

test('the mirror has whatever acme has', async () => {
  const rows = await stage.rows.look();
  const of = (id: string) =>
    Map.groupBy(
      rows.filter(({ tenant }) => tenant === id),
      ({ table }) => table,
    );
  const [acme, mirror] = [of('acme'), of(MIRROR)];
  expect([...mirror].map(([table, { length }]) => [table, length])).toEqual(
    [...acme].map(([table, { length }]) => [table, length]),
  );
  // Whatever table there is, acme has rows in it: else nothing would be shown about it.
  expect([...mirror.keys()].toSorted()).toEqual([...stage.rows.tables].toSorted());
});

describe('beside a tenant with the same rows acme is answered as before', () => {
  test.each(READS)('$title', async (question) => {
    const wish = asked.get(question.title);
    expect(wish && (await answerTo(question, wish))).toEqual(wish?.answer);
  });
});

test.each(QUESTIONS.filter(({ own }) => own?.parameter === 'query cursor'))(
  'a cursor of the mirror, for what has the same id there, is none of acme ($operation)',
  async ({ operation, own }) => {
    if (own === undefined) return;
    const mirror = { ...stage.acme, ...callersOf(MIRROR), id: MIRROR };
    const foreign = await own.foreign({ ...stage, globex: mirror });
    const token = own.as(stage);
    const request = withParameter(own.entry.request(stage, own.parameter, token), own.parameter, foreign);
    expect(await ask(stage.node.url, operation, token, request)).toMatchObject(NOT_VALID);
  },
);

describe('nothing of a tenant with the same rows changes when acme', () => {
  test('reads a stream that confirms by itself', async () => {
    const mirrored = await ofMirror();
    const token = stage.acme.user('alice');
    const read = async () => {
      const stream = await StreamClient.open(stage.node.url, token, {
        query: { device: 'tablet', ack: 'auto' },
      });
      await stream.untilEvent('caught-up');
      await stream.cut();
      await untilRecorded(stage.database, (await stream.untilEvent('sync'))['connectionId']);
      return stream.notifications;
    };
    expect(await read()).not.toEqual([]);
    expect(await read()).toEqual([]);
    expect(await ofMirror()).toEqual(mirrored);
  });

  test('opens a stream with a ticket', async () => {
    const mirrored = await ofMirror();
    await visit(stage.node, undefined, { ticket: stage.acme.unspent });
    expect(await ofMirror()).toEqual(mirrored);
  });

  test.each(WRITES)('asks $title', async (question) => {
    const wish = await wishOf(question);
    const mirrored = await ofMirror();
    const answer = await answerTo(question, wish);
    if (question.own?.own === undefined) expect(answer.status).toBeLessThan(300);
    else expect(answer).toMatchObject(question.own.own.answer);
    expect(await ofMirror()).toEqual(mirrored);
  });

  test('and its streams end', async () => {
    const mirrored = await ofMirror();
    const { streams, connections } = stage.acme;
    await Promise.all(Object.values(streams).map((stream) => stream.cut()));
    await eventually(async () => {
      const open = await stage.database.query(
        `select from connections where tenant_id = 'acme' and until is null and connection_id = any($1)`,
        [Object.values(connections)],
      );
      expect(open).toEqual([]);
    });
    expect(await ofMirror()).toEqual(mirrored);
  });
});
