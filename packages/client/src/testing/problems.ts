import { positionIn } from './log.ts';

/** Errors that a client of the routes of users can meet, by their code: status and title. */
export const PROBLEMS = {
  malformed_json: [400, 'The body is not valid JSON'],
  validation_failed: [400, 'The request is not valid'],
  token_in_query: [400, 'A token does not belong in a URL'],
  position_unknown: [400, 'The position is ahead of the log'],
  token_missing: [401, 'No token was sent'],
  token_invalid: [401, 'The token was not accepted'],
  credentials_conflict: [401, 'The request speaks for two callers'],
  ticket_invalid: [401, 'The ticket was not accepted'],
  not_for_services: [403, 'A service token cannot act as a user'],
  origin_refused: [403, 'The origin of this page is not allowed'],
  subject_mismatch: [403, 'The token is that of another user'],
  tenant_suspended: [403, 'The tenant is suspended'],
  tenant_unknown: [403, 'The tenant is not registered'],
  not_found: [404, 'There is nothing here'],
  device_unknown: [404, 'This device has never opened a stream'],
  method_not_allowed: [405, 'The path does not take this method'],
  body_too_large: [413, 'The body is too large'],
  unsupported_media_type: [415, 'The body is not JSON'],
  too_many_requests: [429, 'The caller asks more often than it may'],
  overloaded: [503, 'This node has too much to do'],
  database_unavailable: [503, 'The database cannot be reached'],
  database_busy: [503, 'The database is busy'],
  keys_unavailable: [503, 'The signing keys cannot be fetched'],
  being_erased: [503, 'The data of this user is being erased'],
  draining: [503, 'This node is shutting down'],
  internal: [500, 'Something broke on our side'],
} as const satisfies Record<string, readonly [status: number, title: string]>;
export type ProblemCode = keyof typeof PROBLEMS;

/** Where in a request something is wrong: a JSON pointer, or `/` and the name of a parameter. */
export interface Fault {
  readonly pointer: string;
  readonly detail: string;
}

/** An answer of the service that is an error. */
export class Refusal extends Error {
  readonly code: ProblemCode;
  readonly #errors: readonly Fault[] | undefined;
  readonly #headers: Record<string, string>;

  constructor(
    code: ProblemCode,
    detail: string,
    { errors, headers = {} }: { errors?: readonly Fault[]; headers?: Record<string, string> } = {},
  ) {
    super(detail);
    this.code = code;
    this.#errors = errors;
    this.#headers = headers;
  }

  toResponse(): Response {
    const [status, title] = PROBLEMS[this.code];
    const { code, message: detail } = this;
    const errors = this.#errors === undefined ? {} : { errors: this.#errors };
    return new Response(
      JSON.stringify({ type: `/docs/errors#${code}`, title, status, detail, code, ...errors }),
      {
        status,
        headers: { 'content-type': 'application/problem+json; charset=utf-8', ...this.#headers },
      },
    );
  }
}

const REALM = 'Bearer realm="tidings"';

export const tokenMissing = (): Refusal =>
  new Refusal('token_missing', 'The request carries no bearer token.', {
    headers: { 'www-authenticate': REALM },
  });

export const tokenInvalid = (reason: string): Refusal =>
  new Refusal('token_invalid', reason, {
    headers: { 'www-authenticate': `${REALM}, error="invalid_token", error_description="${reason}"` },
  });

export const ticketInvalid = (): Refusal =>
  new Refusal('ticket_invalid', 'The ticket is unknown, was used, or has expired.', {
    headers: { 'www-authenticate': REALM },
  });

export const credentialsConflict = (): Refusal =>
  new Refusal('credentials_conflict', 'The credentials of the request are of different users or tenants.', {
    headers: { 'www-authenticate': `${REALM}, error="invalid_request"` },
  });

export const tokenInQuery = (name: string): Refusal =>
  new Refusal('token_in_query', `The query parameter ${name} carries a token.`, {
    headers: { 'www-authenticate': `${REALM}, error="invalid_request"` },
  });

/* What requests have to be. Each member is looked at by a rule: it says what is wrong with it, by the pointers below it. */

export type Rule = (value: unknown) => readonly Fault[];

const is =
  (holds: (value: unknown) => boolean, detail: string): Rule =>
  (value) =>
    holds(value) ? [] : [{ pointer: '', detail }];

export const isText = (pattern: RegExp, detail: string): Rule =>
  is((value) => typeof value === 'string' && pattern.test(value), detail);
export const isOneOf = (...values: readonly string[]): Rule =>
  is((value) => typeof value === 'string' && values.includes(value), `is one of ${values.join(', ')}`);
export const isBoolean: Rule = is((value) => typeof value === 'boolean', 'is true or false');
export const isPosition = (detail: string): Rule => is((value) => positionIn(value) !== undefined, detail);
export const isDevice = isText(/^[A-Za-z0-9._-]{1,64}$/, 'a device has 1 to 64 characters of A-Za-z0-9._-');
export const isType = isText(/^[A-Za-z0-9._:-]{1,128}$/, 'a type has 1 to 128 characters of A-Za-z0-9._:-');
export const isUuid = isText(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i, 'is a UUID');
export const isToken = isText(/^[A-Za-z0-9\-._~+/]{1,8192}=*$/, 'is not a token');

export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** @param needed members that have to be there @param others whether unknown ones are refused */
export function hasMembers(
  rules: Readonly<Record<string, Rule>>,
  { needed = [], strict = true }: { needed?: readonly string[]; strict?: boolean } = {},
): Rule {
  return (value) => {
    if (!isRecord(value)) return [{ pointer: '', detail: 'is an object' }];
    return [
      ...needed
        .filter((name) => value[name] === undefined)
        .map((name) => ({ pointer: `/${name}`, detail: 'is required' })),
      ...Object.entries(value).flatMap(([name, member]) => {
        const rule = rules[name] ?? (strict ? unknownField : () => []);
        return member === undefined
          ? []
          : rule(member).map((fault) => ({ ...fault, pointer: `/${name}${fault.pointer}` }));
      }),
    ];
  };
}

const unknownField: Rule = is(() => false, 'This field is not known.');

/** Throws what is wrong with the body or the query. */
export function check(rule: Rule, value: unknown, detail = 'The body is not valid.'): void {
  const errors = rule(value);
  if (errors.length > 0) throw new Refusal('validation_failed', detail, { errors });
}
