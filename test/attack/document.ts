import { openApiSchema, resolveReference, type OpenApi } from '../support/openapi-format.ts';

/* What the OpenAPI document of a running service says that callers may send. */

export type OperationKey = `${'GET' | 'POST' | 'PATCH' | 'DELETE'} /${string}`;

/** Where something stands in a request: its place and its name, which in a body is a JSON pointer with `*` for each item. */
export type ParameterKey = `${'path' | 'query' | 'header'} ${string}` | `body /${string}`;

export type JsonSchema = Readonly<Record<string, unknown>>;

export interface DocumentedOperation {
  /** Any one of these scopes is needed; `user`: a token with none of them. */
  readonly access: 'public' | 'user' | readonly string[];
  /** By key; what may be of several types has several schemas. */
  readonly parameters: ReadonlyMap<ParameterKey, readonly JsonSchema[]>;
  /** What it may answer. */
  readonly statuses: readonly number[];
}

type DescribedOperation = NonNullable<OpenApi['paths'][string]['get']>;

/** Every operation that the service documents. */
export async function operationsOf(url: string): Promise<Map<OperationKey, DocumentedOperation>> {
  const document = openApiSchema.parse(await (await fetch(`${url}/openapi.json`)).json());
  return new Map(
    Object.entries(document.paths).flatMap(([path, { get, post, patch, delete: remove }]) =>
      Object.entries({ GET: get, POST: post, PATCH: patch, DELETE: remove }).flatMap(
        ([method, described]): [OperationKey, DocumentedOperation][] =>
          described === undefined
            ? []
            : [[`${method} ${path}` as OperationKey, operationOf(document, described)]],
      ),
    ),
  );
}

/** What the token of a user opens. */
export const ofUsers = (documented: ReadonlyMap<OperationKey, DocumentedOperation>): OperationKey[] =>
  [...documented].filter(([, { access }]) => access === 'user').map(([key]) => key);

function operationOf(
  document: OpenApi,
  { security, parameters, requestBody, responses }: DescribedOperation,
): DocumentedOperation {
  const found = new Map<ParameterKey, JsonSchema[]>();
  for (const { name, in: place, schema } of parameters) found.set(`${place} ${name}`, [schema]);
  for (const { schema } of Object.values(requestBody?.content ?? {}))
    for (const [pointer, leaf] of leavesOf(document, schema)) {
      const known = found.get(`body ${pointer}`);
      if (known === undefined) found.set(`body ${pointer}`, [leaf]);
      else known.push(leaf);
    }
  const scopes = security.flatMap((way) => way['token'] ?? []);
  return {
    access: security.length === 0 ? 'public' : scopes.length === 0 ? 'user' : scopes,
    parameters: found,
    statuses: Object.keys(responses).map(Number),
  };
}

/** Every value that a schema lets in, however deep, with its JSON pointer. That nothing may stand there is no value. */
function leavesOf(document: OpenApi, schema: JsonSchema, pointer = ''): [`/${string}`, JsonSchema][] {
  const { $ref: reference, anyOf = [], oneOf = [], allOf = [], properties, items, type } = schema;
  const parts = [reference, anyOf, oneOf, allOf].flat().flatMap((part) => {
    const resolved = typeof part === 'string' ? resolveReference(document, part) : part;
    return isSchema(resolved) ? [resolved] : [];
  });
  if (parts.length > 0) return parts.flatMap((part) => leavesOf(document, part, pointer));
  if (isSchema(properties))
    return Object.entries(properties).flatMap(([name, part]) =>
      isSchema(part) ? leavesOf(document, part, `${pointer}/${name}`) : [],
    );
  if (isSchema(items)) return leavesOf(document, items, `${pointer}/*`);
  // An object without members, such as the body of a request that takes none, lets nothing in.
  return type === 'null' || pointer === '' ? [] : [[`/${pointer.slice(1)}`, schema]];
}

const isSchema = (value: unknown): value is JsonSchema =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
