import { z } from 'zod';

/*
 * The form of an OpenAPI 3.1 document (spec.openapis.org/oas/v3.1.1), as far as this service uses it. Objects are
 * strict: a misspelt field would otherwise be ignored by every reader.
 */
const extensions = (name: string) => name.startsWith('x-');

const strict = <Shape extends z.ZodRawShape>(shape: Shape) =>
  z.looseObject(shape).superRefine((value, context) => {
    const unknown = Object.keys(value).filter((key) => !(key in shape) && !extensions(key));
    if (unknown.length > 0) context.addIssue({ code: 'unrecognized_keys', keys: unknown, input: value });
  });

const reference = z.strictObject({ $ref: z.string().startsWith('#/components/') });
const schema = z.record(z.string(), z.unknown());
const example = strict({ summary: z.string(), value: z.unknown() });
const header = strict({ description: z.string(), schema, example: z.string().optional() });

const mediaType = strict({
  schema,
  example: z.unknown().optional(),
  examples: z.record(z.string(), example).optional(),
}).refine(
  (value) => value['example'] === undefined || value['examples'] === undefined,
  'example or examples',
);

const content = z.record(z.string().regex(/^[a-z]+\/[a-z0-9.+-]+$/), mediaType);

const parameter = strict({
  name: z.string().min(1),
  in: z.enum(['query', 'path', 'header']),
  required: z.boolean(),
  description: z.string().optional(),
  schema,
}).refine((value) => value['in'] !== 'path' || value['required'], 'a path parameter is required');

const operation = strict({
  operationId: z.string().regex(/^[a-z][A-Za-z]+$/),
  tags: z.array(z.string()).min(1),
  summary: z.string().min(1),
  description: z.string().min(1),
  security: z.array(z.record(z.string(), z.array(z.string()))),
  parameters: z.array(parameter),
  requestBody: strict({ required: z.boolean(), content }).optional(),
  responses: z.record(
    z.string().regex(/^[1-5]\d\d$/),
    strict({
      description: z.string().min(1),
      headers: z.record(z.string(), z.union([reference, header])).optional(),
      content: content.optional(),
    }),
  ),
});

export const openApiSchema = strict({
  openapi: z.string().regex(/^3\.1\.\d+$/),
  info: strict({ title: z.string(), version: z.string(), summary: z.string(), description: z.string() }),
  tags: z.array(strict({ name: z.string(), description: z.string() })),
  paths: z.record(
    z.string().startsWith('/'),
    strict({
      get: operation.optional(),
      post: operation.optional(),
      patch: operation.optional(),
      delete: operation.optional(),
    }),
  ),
  components: strict({
    securitySchemes: z.record(
      z.string(),
      z.union([
        strict({
          type: z.literal('http'),
          scheme: z.literal('bearer'),
          bearerFormat: z.string(),
          description: z.string(),
        }),
        strict({
          type: z.literal('apiKey'),
          in: z.literal('cookie'),
          name: z.string(),
          description: z.string(),
        }),
      ]),
    ),
    headers: z.record(z.string(), header),
    schemas: z.record(z.string().regex(/^[A-Za-z0-9._-]+$/), schema),
  }),
});

export type OpenApi = z.infer<typeof openApiSchema>;

/** Every `$ref` in a document, wherever it stands. */
export function referencesIn(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(referencesIn);
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, item]) =>
    key === '$ref' && typeof item === 'string' ? [item] : referencesIn(item),
  );
}

/** What a local reference leads to, or undefined. */
export function resolveReference(document: unknown, pointer: string): unknown {
  return pointer
    .slice('#/'.length)
    .split('/')
    .reduce<unknown>(
      (value, part) => (typeof value === 'object' && value !== null ? Reflect.get(value, part) : undefined),
      document,
    );
}
