import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { Problem, type Fault } from './errors.ts';

/** A request body that is JSON: its bytes, the text that they spell, and what JSON.parse makes of it. */
export class JsonBody {
  constructor(
    readonly bytes: Buffer,
    readonly text: string,
    readonly value: unknown,
  ) {}
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** Reads JSON bodies as JsonBody. Invalid UTF-8 is refused: replaced characters would be stored as if they had been sent. */
export function acceptJson(fastify: FastifyInstance): void {
  fastify.removeAllContentTypeParsers();
  // An async parser: what it throws becomes the answer.
  fastify.addContentTypeParser<Buffer>(
    'application/json',
    { parseAs: 'buffer' },
    async ({ headers }: FastifyRequest, bytes: Buffer) => {
      refuseEncodings(headers);
      return readJson(bytes);
    },
  );
}

function refuseEncodings(headers: IncomingHttpHeaders): void {
  const content = headers['content-encoding'] ?? 'identity';
  const transfer = headers['transfer-encoding'] ?? 'chunked';
  if (content.toLowerCase() === 'identity' && transfer.toLowerCase() === 'chunked') return;
  throw new Problem('unsupported_media_type', 'The body must not be compressed.', {
    headers: { 'accept-encoding': 'identity' },
  });
}

export function readJson(bytes: Buffer): JsonBody {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    throw new Problem('malformed_json', 'The body is not valid UTF-8.');
  }
  try {
    return new JsonBody(bytes, text, JSON.parse(text));
  } catch (error) {
    throw new Problem(
      'malformed_json',
      text.trim() === '' ? 'The body is empty.' : describeSyntaxError(error),
    );
  }
}

/** V8 quotes the text around the fault; payloads must not reach logs or intermediaries, the place is enough. */
function describeSyntaxError(error: unknown): string {
  const place = error instanceof Error ? /at position (\d+)/.exec(error.message)?.[1] : undefined;
  return place === undefined
    ? 'The body is not valid JSON.'
    : `The body is not valid JSON at character ${place}.`;
}

/** Checks a body against its schema. */
export function parseBody<Schema extends z.ZodType>(schema: Schema, body: unknown): z.infer<Schema> {
  return parse(schema, asJsonBody(body).value, 'The body is not valid.');
}

export function asJsonBody(body: unknown): JsonBody {
  if (body instanceof JsonBody) return body;
  throw new Problem('malformed_json', 'The body is empty.');
}

/** Checks a query string. Pointers are `/` and the name of the parameter. */
export function parseQuery<Schema extends z.ZodType>(schema: Schema, query: unknown): z.infer<Schema> {
  return parse(schema, query, 'The query is not valid.');
}

const noQuerySchema = z.strictObject({});

/** For routes without query parameters: every parameter is unknown. */
export function refuseQuery(query: unknown): void {
  parseQuery(noQuerySchema, query);
}

function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, detail: string): z.infer<Schema> {
  const parsed = schema.safeParse(value, {
    error: ({ input }) => (input === undefined ? 'is required' : undefined),
  });
  if (parsed.success) return parsed.data;
  throw new Problem('validation_failed', detail, { errors: parsed.error.issues.flatMap(faultsOf) });
}

function faultsOf(issue: z.core.$ZodIssue): Fault[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      pointer: pointerTo([...issue.path, key]),
      detail: 'This field is not known.',
    }));
  }
  return [{ pointer: pointerTo(issue.path), detail: issue.message }];
}

/** A JSON pointer (RFC 6901). */
export function pointerTo(path: readonly PropertyKey[]): string {
  return path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}
