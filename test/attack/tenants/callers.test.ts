import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { SESSION_COOKIE } from '../../../src/auth/credentials.ts';
import { callerFor } from './callers.ts';
import { SERVICE_SCOPES } from '../../../src/core/identifiers.ts';
import { serviceToken } from '../../support/tokens.ts';
import { goodRequest } from './attempt.ts';
import { operationsOf, type DocumentedOperation, type OperationKey } from '../document.ts';
import { ask, type Carried } from './request.ts';
import { setStage, type Stage } from './stage.ts';
import { TABLE } from './table.ts';

/* Whoever has no right to an operation, or speaks for two, learns nothing by it and changes nothing. */

let stage: Stage;
let documented: Map<OperationKey, DocumentedOperation>;
beforeAll(async () => {
  stage = await setStage();
  documented = await operationsOf(stage.node.url);
});
afterAll(() => stage.close());

const accessOf = (key: OperationKey) => documented.get(key)?.access ?? 'public';

/** Asks with this token and, if it is a good request, no other fault than who is asking. */
async function expectRefused(
  key: OperationKey,
  token: string | undefined,
  [status, code]: readonly [number, string],
  headers: Record<string, string> = {},
): Promise<void> {
  const request: Carried = { ...goodRequest(TABLE, key, stage, token), headers };
  const before = await stage.rows.look();
  expect(await ask(stage.node.url, key, token, request)).toMatchObject({ status, body: { code } });
  expect(await stage.rows.since(before)).toEqual({ gone: [], come: [] });
}

/** The token of a service that may do everything else. */
const withAllBut = (scopes: readonly string[]) =>
  serviceToken({ scope: SERVICE_SCOPES.filter((scope) => !scopes.includes(scope)).join(' ') });

describe.each(Object.keys(TABLE) as OperationKey[])('%s', (key) => {
  test('is closed to every token that lacks the right to it', async () => {
    const { user, billing, operator, admin } = stage.acme;
    const access = accessOf(key);
    if (access === 'public') return;
    await expectRefused(key, undefined, [401, 'token_missing']);
    if (access === 'user')
      for (const token of [billing, operator, admin])
        await expectRefused(key, token, [403, 'not_for_services']);
    else
      for (const token of [user('bob'), withAllBut(access)])
        await expectRefused(key, token, [403, 'scope_missing']);
  });

  test('is closed to whoever speaks for two tenants or two users', async () => {
    const access = accessOf(key);
    if (access === 'public') return;
    const token = callerFor(access, stage.acme);
    for (const other of [stage.globex.user('bob'), stage.acme.user('alice')])
      await expectRefused(key, token, [401, 'credentials_conflict'], {
        cookie: `${SESSION_COOKIE}=${other}`,
      });
  });

  test('tells everybody nothing about tenants, if it is open to everybody', async () => {
    if (accessOf(key) !== 'public') return;
    const answer = await ask(stage.node.url, key, undefined, goodRequest(TABLE, key, stage, undefined));
    const text = JSON.stringify(answer);
    for (const { id, only, past, published, connections, issuerId } of [stage.acme, stage.globex]) {
      // The documentation has an example of this name.
      const names = key.includes('/docs') || key.includes('/openapi') ? [] : [id];
      const ids = [...Object.values(published).map((each) => each.id), ...Object.values(connections)];
      for (const name of [...names, only, past, issuerId, ...ids]) expect(text).not.toContain(name);
    }
  });
});
