import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { callerFor } from './callers.ts';
import { goodRequest } from './attempt.ts';
import { operationsOf, type DocumentedOperation, type JsonSchema, type OperationKey } from '../document.ts';
import { HOSTILE_TEXTS, IMPOSSIBLE_TEXTS, inHeader, RAW_IN_URLS } from './payloads.ts';
import { ask, withParameter, type Answered, type Carried } from './request.ts';
import type { StoredRow } from './rows.ts';
import { setStage, type Stage } from './stage.ts';
import { TABLE } from './table.ts';

/*
 * Hostile text in whatever a caller may send, as the OpenAPI document lists it, so that what is added there is tried,
 * too. It is refused for its form, or taken for the plain text that it is.
 */

let stage: Stage;
let documented: Map<OperationKey, DocumentedOperation>;
beforeAll(async () => {
  stage = await setStage({ ISSUER_SECRETS_KEY: 'the key that seals the secrets of issuers' });
  documented = await operationsOf(stage.node.url);
});
afterAll(() => stage.close());

/** Taken by every operation, whether it reads them or not. */
const HEADERS = ['X-Request-Id', 'Accept', 'Origin', 'User-Agent', 'X-Forwarded-For', 'Traceparent'];

/** Where no such text is taken although the schema lets it pass. */
const TAKES_NONE =
  / (?:ticket|cursor|name|\/upTo|\/(?:seen|read|archived)UpTo|\/revision|\/corsOrigins\/\*|\/keys\/.*|\/secret)$/;

/** Whether the schema says no more than that it is text. */
const isFreeText = ({ type, pattern, enum: words, format }: JsonSchema): boolean =>
  type === 'string' && pattern === undefined && words === undefined && format === undefined;

const tokenFor = (operation: OperationKey) =>
  callerFor(documented.get(operation)?.access ?? 'public', stage.acme);

function expectHarmless(operation: OperationKey, { status, body }: Answered): void {
  // The status 500 is documented as well.
  expect(documented.get(operation)?.statuses.filter((each) => each < 500)).toContain(status);
  const text = JSON.stringify(body);
  if (status >= 400) expect(text).not.toMatch(/syntax|sqlstate|postgres|relation|does not exist|pg_/i);
  const { only, past, published } = stage.globex;
  for (const name of ['of globex', only, past, published.alice.id]) expect(text).not.toContain(name);
}

/** Asks all of it at once; nothing of globex is in the answers. */
async function askAll(operation: OperationKey, requests: readonly Carried[]): Promise<Answered[]> {
  const token = tokenFor(operation);
  const answers = await Promise.all(
    requests.map((request) => ask(stage.node.url, operation, token, request)),
  );
  for (const answer of answers) expectHarmless(operation, answer);
  return answers;
}

async function expectGlobexAsItWas(before: readonly StoredRow[]): Promise<void> {
  const { gone, come } = await stage.rows.since(before);
  expect([...gone, ...come].filter(({ tenant }) => tenant === 'globex')).toEqual([]);
}

/** Where the schema names every word that there is, a few others tell as much as many. */
function textsFor(parameter: string, schemas: readonly JsonSchema[]): readonly string[] {
  const texts = [...IMPOSSIBLE_TEXTS, ...HOSTILE_TEXTS];
  const isOpen = schemas.some((schema) => isFreeText(schema) || 'pattern' in schema || !('type' in schema));
  const some = isOpen ? texts : texts.slice(0, 8);
  return parameter.startsWith('header ') ? some.flatMap((text) => inHeader(text) ?? []) : some;
}

describe.each(Object.keys(TABLE) as OperationKey[])('%s', (operation) => {
  test('takes hostile text in each parameter for plain text, or refuses it', async () => {
    const token = tokenFor(operation);
    const entry = TABLE[operation];
    if (typeof entry !== 'object') return;
    const before = await stage.rows.look();
    for (const [parameter, schemas] of documented.get(operation)?.parameters ?? []) {
      const requests = textsFor(parameter, schemas).map((text) =>
        withParameter(entry.request(stage, parameter, token), parameter, text),
      );
      const answers = await askAll(operation, requests);
      if (!schemas.some(isFreeText) || TAKES_NONE.test(parameter)) continue;
      // Else it was refused for something else, and nothing was shown.
      const taken = answers.filter(({ status }) => status < 300 || status === 404 || status === 409);
      expect({ parameter, taken }).not.toEqual({ parameter, taken: [] });
    }
    await expectGlobexAsItWas(before);
  });

  test('takes hostile text in headers for plain text, or refuses it', async () => {
    const requests = textsFor('header ', [{ type: 'string' }]).map((text) => ({
      ...goodRequest(TABLE, operation, stage, tokenFor(operation)),
      headers: Object.fromEntries(HEADERS.map((name) => [name, text])),
    }));
    const before = await stage.rows.look();
    await askAll(operation, requests);
    await expectGlobexAsItWas(before);
  });

  test('takes no bytes in its URL that are no text', async () => {
    const [method = '', path = ''] = operation.split(' ');
    const { query = {} } = goodRequest(TABLE, operation, stage, tokenFor(operation));
    const urls = RAW_IN_URLS.flatMap((raw) => [
      ...(path.includes('{') ? [path.replace(/\{\w+\}/, raw)] : []),
      ...[...Object.keys(query), 'cursor', raw].map((name) => `${path}?${name}=${raw}`),
    ]);
    const token = tokenFor(operation);
    const headers = token === undefined ? undefined : { authorization: `Bearer ${token}` };
    const before = await stage.rows.look();
    const statuses = await Promise.all(
      urls.map(async (url) => {
        const response = await fetch(stage.node.url + url, { method, ...(headers && { headers }) });
        await response.body?.cancel();
        return response.status;
      }),
    );
    expect(urls.filter((_, i) => (statuses[i] ?? 500) >= 500)).toEqual([]);
    await expectGlobexAsItWas(before);
  });
});
