import { Reflector } from '@nestjs/core';
import type { z } from 'zod';
import type { ErrorCode } from '../core/errors.ts';

/*
 * How a handler describes itself to callers. `@Describe` stands above it, and what is described stands in the file beside its
 * controller (`*.openapi.ts`), or above the controller where that is short. Method, path and who may call it are not repeated:
 * src/openapi reads them from the other decorators of the handler.
 */

export const TAGS = {
  Publish: 'Services put notifications into their tenant.',
  Stream: 'Logged-in users receive what is addressed to them, and confirm it.',
  Inbox: 'Logged-in users see what was for them, what of it is new, and say what they have read.',
  History: 'Operators see what was published, what reached whom, and when.',
  Administration: 'Administrators register tenants and issuers; operators revoke tokens and end streams.',
  Privacy: 'What is stored of one user: shown to whoever has to answer for it, and erased.',
  Operation: 'For balancers, monitoring and readers of this page.',
} as const;

/** By name; each `value` is checked against the schema beside it by a test. */
export type Examples = Readonly<Record<string, { readonly summary: string; readonly value: unknown }>>;

/** What stands in a body: JSON of a schema, or text that only an example can show. */
export type Content =
  | { readonly mediaType: string; readonly schema: z.ZodType; readonly examples: Examples }
  | {
      readonly mediaType: string;
      readonly text: string;
      /** The data of the events that the text is made of, by event name. */
      readonly events?: Readonly<Record<string, z.ZodType>>;
      /** The lines that the text is made of, by `kind`. */
      readonly lines?: Readonly<Record<string, z.ZodType>>;
    };

export interface Answer {
  readonly status: number;
  readonly description: string;
  readonly headers?: readonly HeaderName[];
  readonly content?: readonly Content[];
}

/** Parameters by name. */
export type Fields = z.ZodObject<Readonly<Record<string, z.ZodType>>>;

/** One operation as callers see it. What follows from its access and its body (401, 403, 413 ...) is added by src/openapi. */
export interface Description {
  readonly id: string;
  readonly tag: keyof typeof TAGS;
  readonly summary: string;
  /** CommonMark. */
  readonly description: string;
  readonly pathParameters?: Fields;
  readonly query?: Fields;
  /**
   * The query of the handler's second path. That path lacks the parameter of the first one, and the query has it instead.
   * It is described as an operation of its own, whose id ends with `ByQuery`.
   */
  readonly byQuery?: Fields;
  readonly headers?: readonly RequestHeaderName[];
  readonly body?: {
    readonly schema: z.ZodType;
    readonly examples: Examples;
    /** False: without a body the request means the same as with an empty object. Default: true. */
    readonly required?: boolean;
  };
  readonly answers: readonly Answer[];
  /** Headers of every answer, also of problems, once it is known that the caller may come in. */
  readonly everyAnswer?: readonly HeaderName[];
  readonly problems: readonly ErrorCode[];
}

/** Describes a handler in the OpenAPI document. The service does not start while a handler has no description. */
export const Describe = Reflector.createDecorator<Description>();

/** What every route that asks the database may answer. */
export const DATABASE_PROBLEMS = ['database_unavailable', 'database_busy', 'database_full'] as const;

/** An answer of JSON. */
export const json = (status: number, description: string, schema: z.ZodType, examples: Examples): Answer => ({
  status,
  description,
  content: [{ mediaType: 'application/json', schema, examples }],
});

/** Headers of requests, in OpenAPI's words. */
export const REQUEST_HEADERS = {
  'Idempotency-Key': {
    description:
      'Makes a repeated publish harmless: the same key, route and body give the first answer again. Kept for 24 hours (`IDEMPOTENCY_WINDOW_HOURS`), per tenant and publisher. For example `order-4711-shipped`.',
    schema: { type: 'string', pattern: '^[\\x21-\\x7e]{1,255}$' },
  },
  'Last-Event-ID': {
    description:
      'The `id:` of the last event that was received. Browsers send it by themselves when they reconnect. It wins over `lastEventId` and `from`. A position that cannot be used is no error: the `sync` event says what was done instead.',
    schema: { type: 'string' },
  },
  traceparent: {
    description: 'W3C Trace Context. Its trace-id is logged, and a publish keeps it with the notification.',
    schema: { type: 'string' },
  },
} as const;

type RequestHeaderName = keyof typeof REQUEST_HEADERS;

/** Headers of answers, in OpenAPI's words. */
export const HEADERS = {
  'X-Request-Id': {
    description: 'The id of this request; quote it when you report a fault.',
    schema: { type: 'string', pattern: '^[A-Za-z0-9._-]{1,128}$' },
  },
  'Idempotency-Replayed': {
    description: '`true` when the Idempotency-Key was known and this is the first answer again.',
    schema: { type: 'string', const: 'true' },
  },
  Location: {
    description: 'Where what was made can be looked up.',
    schema: { type: 'string', format: 'uri-reference' },
  },
  RateLimit: {
    description:
      'What the tenant has left (draft-ietf-httpapi-ratelimit-headers-11): `r` notifications now, and that the rate brings so many in `t` seconds. In answers to callers who may publish.',
    schema: { type: 'string' },
    example: '"notifications";r=9940;t=1',
  },
  'RateLimit-Policy': {
    description:
      'What the tenant may publish: `q` notifications at once, which come back in `w` seconds. A request costs as many as it makes; one that is refused, or whose Idempotency-Key is known, costs nothing.',
    schema: { type: 'string' },
    example: '"notifications";q=20000;w=2',
  },
  'Retry-After': {
    description: 'Seconds to wait before the next try.',
    schema: { type: 'integer', minimum: 0 },
  },
  'Set-Cookie': {
    description: 'The session cookie `__Host-tidings`, or its removal (RFC 6265).',
    schema: { type: 'string' },
  },
  'WWW-Authenticate': {
    description: 'The `Bearer` challenge of RFC 6750: which check failed, or which scope is needed.',
    schema: { type: 'string' },
  },
} as const;

export type HeaderName = keyof typeof HEADERS;
