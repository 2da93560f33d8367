import { z } from 'zod';
import { Injectable } from '@nestjs/common';
import { DiscoveryService, MetadataScanner, Reflector } from '@nestjs/core';
import { SESSION_COOKIE } from '../auth/credentials.ts';
import { SERVICE_SCOPES } from '../core/identifiers.ts';
import { VERSION } from '../core/config.ts';
import { ERRORS, Problem, type ErrorCode } from '../core/errors.ts';
import { type Access, settingsOf, routesOf } from '../http/access.ts';
import {
  HEADERS,
  REQUEST_HEADERS,
  TAGS,
  type Answer,
  type Content,
  type Fields,
  type HeaderName,
  Describe,
  type Description,
} from '../http/description.ts';

/** One route as callers see it: what `@Describe` says, and what the other decorators of its handler say. */
export interface Operation extends Omit<Description, 'byQuery'> {
  readonly method: string;
  /** With `{parameters}`, as OpenAPI writes them. */
  readonly path: string;
  readonly access: Access;
}

/** Every operation of the service. Throws while it is made if a handler is not described, so the service does not start. */
@Injectable()
export class Operations {
  readonly all: readonly Operation[];

  constructor(discovery: DiscoveryService, scanner: MetadataScanner, reflector: Reflector) {
    const undescribed: string[] = [];
    this.all = routesOf(discovery, scanner).flatMap(({ name, handler, method, paths }) => {
      const description: Description | undefined = reflector.get(Describe, handler);
      const access = settingsOf(handler)?.access;
      if (description === undefined) undescribed.push(name);
      // A handler that does not say who may call it is refused by AuthModule.
      if (description === undefined || access === undefined) return [];
      return operationsOf(description, method, paths.map(inOpenApi), access);
    });
    if (undescribed.length > 0) throw new Error(`@Describe is missing on ${undescribed.join(', ')}.`);
  }
}

const inOpenApi = (path: string): string => path.replaceAll(/:(\w+)/g, '{$1}');

function operationsOf(
  { byQuery, ...description }: Description,
  method: string,
  [path = '', secondPath]: readonly string[],
  access: Access,
): Operation[] {
  const operation: Operation = { ...description, method: method.toLowerCase(), path, access };
  if (byQuery === undefined || secondPath === undefined) return [operation];
  return [operation, namedInQuery(operation, secondPath, byQuery)];
}

/** What is said of a user in the path, for one who is named in the query. */
function namedInQuery(byPath: Operation, path: string, query: Fields): Operation {
  const { pathParameters: _, problems, ...operation } = byPath;
  return {
    ...operation,
    path,
    id: `${operation.id}ByQuery`,
    summary: `${operation.summary}, named in the query`,
    description: `As \`${operation.method.toUpperCase()} ${operation.path}\`, for any user: no path carries \`.\` or \`..\`, since clients take them
for a step in it, also when they are encoded.`,
    query,
    problems: problems.filter((code) => code !== 'not_found'),
  };
}

const DESCRIPTION = `One POST, and a notification reaches every device of a user, in order, once it is safely stored.
Whoever was away gets it on return; an operator can prove what reached whom, and when.

User and tenant come from the verified token and from nowhere else. Times are RFC 3339 in UTC with milliseconds.
Unknown fields and query parameters are refused; a stream leaves the latter out. Errors are \`application/problem+json\` (RFC 9457);
[every code and what to do about it](/docs/errors). Any request may carry an \`X-Request-Id\` (1-128 characters of
\`A-Za-z0-9._-\`); it is made if absent, logged, and in every answer.`;

const TOKEN = `A JWT of the identity provider that this service was set up with: \`sub\`, \`tenant_id\`, \`iss\`, \`aud\`, \`exp\`,
and \`scope\` (separated by spaces) for services and operators: ${SERVICE_SCOPES.map((scope) => `\`${scope}\``).join(', ')}.
A service may have \`topics\`, too: those that it may publish to.
The token of a logged-in user has none of these scopes, and optionally \`topics\` and \`device\`.`;

const SESSION = `The token of a logged-in user, put into a cookie by \`POST /v1/session\` or by a server of yours on this host. It
does for routes of users, from pages of this host and of origins that the tenant allows.`;

/** What `Problem.toJSON` makes of an error. */
export const problemSchema = z
  .strictObject({
    type: z.string().meta({ description: 'A path of this documentation; it names the error.' }),
    title: z.string().meta({ description: 'What the error means, the same text each time.' }),
    status: z.number().int().min(400).max(599),
    detail: z.string().meta({ description: 'What was wrong this time.' }),
    code: z.enum(Object.keys(ERRORS)).meta({ description: 'The stable name that programs may rely on.' }),
    errors: z
      .array(
        z.strictObject({
          pointer: z.string().meta({
            description:
              'A JSON pointer (RFC 6901) into the body. For a query parameter or a header it is `/` and its name.',
          }),
          detail: z.string(),
        }),
      )
      .optional()
      .meta({ description: 'Everything that is wrong with the request, each with its place.' }),
  })
  .meta({ id: 'Problem', description: 'An error as RFC 9457 has it.' });

interface Response {
  readonly description: string;
  readonly headers: object;
  readonly content?: object;
}

/** The OpenAPI 3.1 document of these operations, from the schemas that the service validates with. */
export function openApiDocument(operations: readonly Operation[]): Record<string, unknown> {
  const schemas = new JsonSchemas();
  const problem = schemas.convert(problemSchema, 'output');
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of operations) {
    paths[operation.path] = {
      ...paths[operation.path],
      [operation.method]: describe(operation, schemas, problem),
    };
  }
  return {
    openapi: '3.1.1',
    info: { title: 'Tidings', version: VERSION, summary: 'Durable notifications.', description: DESCRIPTION },
    tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
    paths,
    components: {
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: TOKEN },
        session: { type: 'apiKey', in: 'cookie', name: SESSION_COOKIE, description: SESSION },
      },
      headers: HEADERS,
      schemas: Object.fromEntries(
        Object.entries(schemas.components).toSorted(([a], [b]) => (a < b ? -1 : 1)),
      ),
    },
  };
}

function describe(operation: Operation, schemas: JsonSchemas, problem: object): object {
  const { access, body } = operation;
  return {
    operationId: operation.id,
    tags: [operation.tag],
    summary: operation.summary,
    description: `${operation.description}\n\n${accessNote(access)}`,
    // OpenAPI 3.1 lets a bearer scheme name the roles that it needs.
    security:
      access.kind === 'public'
        ? []
        : access.kind === 'user'
          ? [{ token: [] }, { session: [] }]
          : access.anyOf.map((scope) => ({ token: [scope] })),
    parameters: parametersOf(operation, schemas),
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            required: body.required ?? true,
            content: {
              'application/json': { schema: schemas.convert(body.schema, 'input'), examples: body.examples },
            },
          },
        }),
    responses: responsesOf(operation, schemas, problem),
  };
}

function accessNote(access: Access): string {
  if (access.kind === 'public') return 'Takes no token.';
  if (access.kind === 'user') return 'Takes the token of a logged-in user, one without service scopes.';
  return `Takes a token with the scope ${access.anyOf.map((scope) => `\`${scope}\``).join(' or ')}.`;
}

function parametersOf(operation: Operation, schemas: JsonSchemas): object[] {
  return [
    ...fieldsOf(operation.pathParameters, 'path', schemas),
    ...fieldsOf(operation.query, 'query', schemas),
    ...(operation.headers ?? []).map((name) => ({
      name,
      in: 'header',
      required: false,
      ...REQUEST_HEADERS[name],
    })),
  ];
}

function fieldsOf(object: Fields | undefined, place: 'path' | 'query', schemas: JsonSchemas): object[] {
  if (object === undefined) return [];
  return Object.entries(object.shape).map(([name, field]) => {
    const { description, ...schema } = schemas.convert(field, 'input');
    const required = !field.safeParse(undefined).success;
    return { name, in: place, required, ...(description === undefined ? {} : { description }), schema };
  });
}

function responsesOf(operation: Operation, schemas: JsonSchemas, problem: object): object {
  const responses: Record<string, Response> = {};
  const { everyAnswer = [] } = operation;
  for (const { headers = [], ...answer } of operation.answers)
    responses[answer.status] = responseOf({ ...answer, headers: [...headers, ...everyAnswer] }, schemas);
  for (const [status, codes] of Map.groupBy(problemsOf(operation), (code) => ERRORS[code].status)) {
    const { content, ...own } = responses[status] ?? {};
    responses[status] = {
      description: codes.map((code) => ERRORS[code].title).join('; '),
      headers: headersOf([...headersOfProblem(codes), ...everyAnswer]),
      ...own,
      content: { ...content, 'application/problem+json': { schema: problem, examples: examplesOf(codes) } },
    };
  }
  return responses;
}

function responseOf({ description, headers = [], content = [] }: Answer, schemas: JsonSchemas): Response {
  return {
    description,
    headers: headersOf(headers),
    ...(content.length === 0
      ? {}
      : { content: Object.fromEntries(content.map((item) => contentOf(item, schemas))) }),
  };
}

function contentOf(content: Content, schemas: JsonSchemas): [mediaType: string, object] {
  const { mediaType } = content;
  if (!('text' in content)) {
    return [mediaType, { schema: schemas.convert(content.schema, 'output'), examples: content.examples }];
  }
  const { text, events, lines } = content;
  return [
    mediaType,
    {
      schema: { type: 'string' },
      example: text,
      ...(events === undefined ? {} : { 'x-events': convertAll(events, schemas) }),
      ...(lines === undefined ? {} : { 'x-lines': convertAll(lines, schemas) }),
    },
  ];
}

const convertAll = (named: Readonly<Record<string, z.ZodType>>, schemas: JsonSchemas): object =>
  Object.fromEntries(
    Object.entries(named).map(([name, schema]) => [name, schemas.convert(schema, 'output')]),
  );

/** The errors of a route: its own, and those that follow from what it takes. */
export function problemsOf({ access, body, problems }: Operation): ErrorCode[] {
  const codes = new Set<ErrorCode>(['token_in_query', 'internal', ...problems]);
  const add = (...more: ErrorCode[]) => more.forEach((code) => codes.add(code));
  if (access.kind !== 'public') {
    add('validation_failed', 'token_missing', 'token_invalid', 'credentials_conflict');
    add('tenant_suspended', 'tenant_unknown');
  }
  if (access.kind === 'user') add('not_for_services', 'origin_refused');
  else if (access.kind === 'service') add('scope_missing');
  if (body !== undefined) add('malformed_json', 'body_too_large', 'unsupported_media_type');
  return [...codes].toSorted((a, b) => ERRORS[a].status - ERRORS[b].status);
}

function headersOfProblem(codes: readonly ErrorCode[]): HeaderName[] {
  const { status } = ERRORS[codes[0] ?? 'internal'];
  if (status === 503 || status === 429) return ['Retry-After'];
  const challenged = codes.some(
    (code) => status === 401 || code === 'scope_missing' || code === 'token_in_query',
  );
  return challenged ? ['WWW-Authenticate'] : [];
}

function headersOf(names: readonly HeaderName[]): object {
  const all = ['X-Request-Id', ...names];
  return Object.fromEntries(all.map((name) => [name, { $ref: `#/components/headers/${name}` }]));
}

function examplesOf(codes: readonly ErrorCode[]): object {
  return Object.fromEntries(
    codes.map((code) => [code, { summary: ERRORS[code].title, value: exampleOf(code) }]),
  );
}

function exampleOf(code: ErrorCode): object {
  const errors =
    code === 'validation_failed'
      ? [{ pointer: '/limit', detail: 'Too big: expected number to be <=200' }]
      : undefined;
  return new Problem(code, ERRORS[code].advice, errors === undefined ? {} : { errors }).toJSON();
}

type JsonSchema = Record<string, unknown>;

/** zod's name for a recursive schema that has none. The only one is `z.json()`, any JSON value - and any value is what a schema without rules means. */
const UNNAMED = /^#\/\$defs\/__schema/;

/** Patterns that only repeat a format, at a length that nobody reads. */
const FORMATS_THAT_SAY_ENOUGH = new Set(['date-time', 'uuid']);

/**
 * Turns zod schemas into JSON Schema (2020-12). Schemas with an `id` in their meta become components,
 * each of them once; `input` is what a caller sends, `output` what a caller gets.
 */
class JsonSchemas {
  readonly components: Record<string, JsonSchema> = {};

  convert(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
    const {
      $schema: _,
      $defs = {},
      ...root
    } = z.toJSONSchema(schema, {
      io,
      unrepresentable: 'any',
      override: ({ jsonSchema }) => {
        if (FORMATS_THAT_SAY_ENOUGH.has(jsonSchema.format ?? '')) delete jsonSchema.pattern;
      },
    });
    for (const [name, definition] of Object.entries($defs)) {
      if (UNNAMED.test(`#/$defs/${name}`)) continue;
      this.components[name] ??= withoutId(rewrite(definition));
    }
    return asObject(rewrite(root));
  }
}

/** Points references at the components. */
function rewrite(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(rewrite);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) => {
      if (key !== '$ref' || typeof item !== 'string') return [[key, rewrite(item)]];
      return UNNAMED.test(item) ? [] : [[key, item.replace('#/$defs/', '#/components/schemas/')]];
    }),
  );
}

function asObject(value: unknown): JsonSchema {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

function withoutId(value: unknown): JsonSchema {
  const { id: _, $id: __, ...rest } = asObject(value);
  return rest;
}
