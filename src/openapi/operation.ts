import type { z } from 'zod';
import type { ServiceScope } from '../core/identifiers.ts';
import type { ErrorCode } from '../core/errors.ts';
import type { HeaderName, RequestHeaderName } from './headers.ts';

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

/** What every route that asks the database may answer. */
export const DATABASE_PROBLEMS = ['database_unavailable', 'database_busy', 'database_full'] as const;

/** One route as callers see it. What follows from `access` and `body` (401, 403, 413 ...) is added by openapi.ts. */
export interface Operation {
  readonly method: 'get' | 'post' | 'patch' | 'delete';
  /** With `{parameters}`, as OpenAPI writes them. */
  readonly path: string;
  readonly id: string;
  readonly tag: Tag;
  readonly summary: string;
  /** CommonMark. */
  readonly description: string;
  /** `public`, a logged-in user, or a service with one of these scopes. */
  readonly access: 'public' | 'user' | readonly ServiceScope[];
  readonly query?: Fields;
  readonly pathParameters?: Fields;
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

export const TAGS = {
  Publish: 'Services put notifications into their tenant.',
  Stream: 'Logged-in users receive what is addressed to them, and confirm it.',
  History: 'Operators see what was published, what reached whom, and when.',
  Administration: 'Administrators register tenants and issuers; operators revoke tokens and end streams.',
  Privacy: 'What is stored of one user: shown to whoever has to answer for it, and erased.',
  Operation: 'For balancers, monitoring and readers of this page.',
} as const;

export type Tag = keyof typeof TAGS;
