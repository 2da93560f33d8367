import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publish } from '../../support/api.ts';
import { lineOf, type Attempt } from './attempt.ts';
import { operationsOf, type DocumentedOperation, type OperationKey } from '../document.ts';
import { looksOf } from './looks.ts';
import { ask, isStream, withParameter, type Answered } from './request.ts';
import type { Difference } from './rows.ts';
import { setStage, untilRecorded, type Stage } from './stage.ts';
import { attemptsOf, TABLE, type Case } from './table.ts';

/* Whatever a caller may name, he names what belongs to others: another tenant, another user, another publisher. */

let stage: Stage;
let documented: Map<OperationKey, DocumentedOperation>;
beforeAll(async () => {
  stage = await setStage();
  documented = await operationsOf(stage.node.url);
});
afterAll(() => stage.close());

const KEYS = Object.keys(TABLE) as OperationKey[];

describe('the table', () => {
  test('has every operation of the OpenAPI document, which has every route, and no other', () => {
    expect(KEYS.toSorted()).toEqual([...documented.keys()].toSorted());
    // HEAD comes with every GET.
    const routes = [...stage.routes].filter((route) => !/^(HEAD|OPTIONS) /.test(route));
    expect(KEYS.toSorted()).toEqual(routes.toSorted());
  });

  test.each(KEYS)(
    'says of every parameter of %s how it is attacked, or why nothing can be named by it',
    (key) => {
      const parameters = [...(documented.get(key)?.parameters.keys() ?? [])];
      const entry = TABLE[key];
      if (typeof entry !== 'object') {
        expect(parameters).toEqual([]);
        return;
      }
      const lines = new Map(parameters.map((parameter) => [parameter, lineOf(entry, parameter)]));
      expect([...lines].filter(([, line]) => line === undefined)).toEqual([]);
      // And of nothing else.
      expect(new Set(lines.values())).toEqual(new Set(Object.keys(entry.parameters)));
    },
  );
});

const CASES = KEYS.flatMap(attemptsOf);

describe.each(['node', 'otherNode'] as const)('through the %s', (through) => {
  const send = async ({ operation, parameter, entry, as }: Case, named: string): Promise<Answered> => {
    const token = as(stage);
    const request = withParameter(entry.request(stage, parameter, token), parameter, named);
    const answer = await ask(stage[through].url, operation, token, request);
    if (isStream(answer.body)) await untilRecorded(stage.database, answer.body.connectionId);
    return answer;
  };

  test.each(CASES)('$operation, $parameter: $what', async (attempt) => {
    const foreign = await attempt.foreign(stage);
    const unknown = attempt.unknown(foreign);
    const before = await stage.rows.look();
    const first = await stage.statementsOf(() => send(attempt, foreign));
    const second = await stage.statementsOf(() => send(attempt, unknown));
    expect(first.result).toMatchObject(attempt.answer);
    // Nobody can tell by the answer, nor by the work behind it, that what belongs to others is there.
    expect(looksOf(second.result, unknown)).toEqual(looksOf(first.result, foreign));
    expect(second.statements).toEqual(first.statements);
    expectOnlyOwn(await stage.rows.since(before), attempt);

    const { own } = attempt;
    if (own !== undefined) expect(await send(attempt, await own.named(stage))).toMatchObject(own.answer);
  });
});

/** Nothing of others was changed, and of the attacker's own tenant only what such a request may write. */
function expectOnlyOwn({ gone, come }: Difference, { writes }: Attempt): void {
  const mayChange = new Set(writes);
  const foreign = [...gone, ...come].filter(
    ({ table, tenant, user }) => tenant !== 'acme' || user === 'bob' || !mayChange.has(table),
  );
  expect(foreign).toEqual([]);
}

test('all that time the streams of the others got nothing, and they are still open', async () => {
  for (const { streams, only, billing } of [stage.acme, stage.globex]) {
    for (const [user, stream] of [
      ['bob', streams.bob],
      [only, streams.only],
    ] as const) {
      const had = stream.notifications.length;
      const { id } = await publish(stage.node.url, billing, { to: { user }, type: 'the.end', data: null });
      await stream.untilNotifications(had + 1);
      expect(stream.notifications.slice(had).map((each) => each.id)).toEqual([id]);
      expect(stream.named('bye')).toEqual([]);
    }
  }
});
