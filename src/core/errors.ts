/**
 * Every error that a caller can meet, in one table. The code is what machines rely on; the title and the
 * advice become `/docs/errors`, so a new row documents itself.
 */
export const ERRORS = {
  malformed_json: {
    status: 400,
    title: 'The body is not valid JSON',
    advice: 'Send one JSON value in UTF-8. The detail says where reading stopped.',
  },
  validation_failed: {
    status: 400,
    title: 'The request is not valid',
    advice: 'Each entry of `errors` points at what is wrong (RFC 6901). Nothing was stored.',
  },
  malformed_request: {
    status: 400,
    title: 'This is not HTTP',
    advice:
      'The connection is closed, since nobody knows where the next request begins. Use an HTTP/1.1 client.',
  },
  token_in_query: {
    status: 400,
    title: 'A token does not belong in a URL',
    advice:
      'URLs end up in logs and histories. Send `Authorization: Bearer <token>` and replace the token you just exposed.',
  },
  position_unknown: {
    status: 400,
    title: 'The position is ahead of the log',
    advice:
      'Acknowledge and mark only up to positions that were shown: the `id:` of an event of the stream, the `position` of an item or of the numbers of an inbox.',
  },
  token_missing: {
    status: 401,
    title: 'No token was sent',
    advice: 'Send `Authorization: Bearer <token>`.',
  },
  token_invalid: {
    status: 401,
    title: 'The token was not accepted',
    advice: 'Get a new token from your identity provider. The detail says which check failed.',
  },
  credentials_conflict: {
    status: 401,
    title: 'The request speaks for two callers',
    advice:
      'A bearer token, a session cookie and a ticket were sent together and do not agree. Send one of them, or end the session with `DELETE /v1/session`.',
  },
  ticket_invalid: {
    status: 401,
    title: 'The ticket was not accepted',
    advice:
      'A ticket opens one stream, within seconds. Fetch a new one with `POST /v1/stream/tickets` and open the stream with it and `lastEventId`.',
  },
  scope_missing: {
    status: 403,
    title: 'The token does not carry the scope',
    advice: 'Ask for the scope named in the detail and in `WWW-Authenticate`.',
  },
  topic_forbidden: {
    status: 403,
    title: 'The token may not publish to this topic',
    advice:
      'The token carries a list of topics, and those that `errors` points at are not in it. Ask for a token with them, or for one without such a list.',
  },
  not_for_services: {
    status: 403,
    title: 'A service token cannot act as a user',
    advice:
      'Streams, acknowledgements and inboxes take the token of a logged-in user, one without service scopes.',
  },
  origin_refused: {
    status: 403,
    title: 'The origin of this page is not allowed',
    advice:
      'Add the origin of the page to `corsOrigins` of the tenant or to `CORS_ORIGINS`. Where only the session cookie was refused, `Authorization: Bearer <token>` will do, too.',
  },
  subject_mismatch: {
    status: 403,
    title: 'The token is that of another user',
    advice:
      'A stream is renewed with a new token of the same user and tenant. For another user open a new stream.',
  },
  tenant_suspended: {
    status: 403,
    title: 'The tenant is suspended',
    advice: 'An administrator suspended it. Nothing is lost; everything works again once it is active.',
  },
  tenant_unknown: {
    status: 403,
    title: 'The tenant is not registered',
    advice: 'It never was, or it was deleted. An administrator registers it with `POST /v1/tenants`.',
  },
  storage_full: {
    status: 403,
    title: 'The tenant keeps as much as it may',
    advice:
      'Nothing was stored. There is room again when older notifications are past `keptDays` of the tenant, when data of users is erased, or when an administrator raises `limits.storedBytes` or shortens `keptDays`.',
  },
  revocations_full: {
    status: 403,
    title: 'The tenant has as many revocations as it may',
    advice:
      'Nothing was revoked. Instead of a token revoke its user, and send `expiresAt` with tokens, so that each revocation ends with its token; instead of many users set `revokedBefore` of their issuer. With a smaller `MAX_TOKEN_LIFETIME_DAYS` revocations end sooner.',
  },
  not_found: {
    status: 404,
    title: 'There is nothing here',
    advice: 'Check the path and the id. What belongs to others is also not found.',
  },
  device_unknown: {
    status: 404,
    title: 'This device has never opened a stream',
    advice: 'Open the stream with the same `device` first; its cursor is made then.',
  },
  method_not_allowed: {
    status: 405,
    title: 'The path does not take this method',
    advice: 'See `Allow` and the API reference.',
  },
  request_timeout: {
    status: 408,
    title: 'The request took too long to arrive',
    advice: 'The connection is closed. Send the whole request within a minute, its head within 20 seconds.',
  },
  tenant_exists: {
    status: 409,
    title: 'A tenant with this id exists',
    advice: 'Change it with `PATCH /v1/tenants/{id}`.',
  },
  tenant_deleted: {
    status: 409,
    title: 'The tenant was deleted',
    advice:
      'Its data is gone or on its way out. Once `GET /v1/tenants/{id}` says `deleted`, `POST /v1/tenants` makes it anew.',
  },
  issuer_exists: {
    status: 409,
    title: 'An issuer with this `iss` is registered',
    advice:
      'Change it with `PATCH /v1/issuers/{id}`. The issuer of the environment is changed in the environment.',
  },
  body_too_large: {
    status: 413,
    title: 'The body is too large',
    advice:
      'Send fewer notifications per request, or put large content elsewhere and publish a link. The detail names the limit.',
  },
  unsupported_media_type: {
    status: 415,
    title: 'The body is not JSON',
    advice: 'Send `Content-Type: application/json`.',
  },
  expectation_failed: {
    status: 417,
    title: 'This cannot be expected',
    advice: 'Leave `Expect` out, or send `100-continue`.',
  },
  rate_limited: {
    status: 429,
    title: 'The tenant publishes more than it may',
    advice:
      'Nothing was stored. Try again after `Retry-After` seconds; `RateLimit` in every answer says what is left. An administrator can raise `limits` of the tenant.',
  },
  too_many_requests: {
    status: 429,
    title: 'The caller asks more often than it may',
    advice: 'Nothing was done. Try again after `Retry-After` seconds; the detail says how often is fine.',
  },
  idempotency_mismatch: {
    status: 422,
    title: 'This Idempotency-Key was used for another request',
    advice: 'Use a new key for each new request; repeat a key only with the same route and the same bytes.',
  },
  headers_too_large: {
    status: 431,
    title: 'The head of the request is too large',
    advice: 'Path and headers may have 16 KiB together. Send fewer cookies.',
  },
  overloaded: {
    status: 503,
    title: 'This node has too much to do',
    advice: 'Nothing was stored. Try again after `Retry-After` seconds.',
  },
  database_unavailable: {
    status: 503,
    title: 'The database cannot be reached',
    advice:
      'Try again after `Retry-After` seconds, with the same Idempotency-Key: then it is stored exactly once.',
  },
  database_busy: {
    status: 503,
    title: 'The database is busy',
    advice:
      'It gave this up, mostly behind a lock that somebody holds for long, and it had no effect. Try again after `Retry-After` seconds, with the same Idempotency-Key.',
  },
  database_full: {
    status: 503,
    title: 'The database has no room left',
    advice:
      'Nothing was stored. Whoever runs the service has to make room; try again after `Retry-After` seconds, with the same Idempotency-Key.',
  },
  keys_unavailable: {
    status: 503,
    title: 'The signing keys cannot be fetched',
    advice: 'Try again after `Retry-After` seconds. The identity provider of this service did not answer.',
  },
  being_erased: {
    status: 503,
    title: 'The data of this user is being erased',
    advice: 'Try again after `Retry-After` seconds; then the user begins anew.',
  },
  draining: {
    status: 503,
    title: 'This node is shutting down',
    advice: 'Try again after `Retry-After` seconds; another node answers.',
  },
  internal: {
    status: 500,
    title: 'Something broke on our side',
    advice: 'Report the `X-Request-Id`; the log of the service has the cause.',
  },
} as const satisfies Record<string, { status: number; title: string; advice: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** One thing that is wrong, and where: `pointer` is a JSON pointer (RFC 6901), `''` the whole body. For a query parameter or header it is `/` and its name. */
export interface Fault {
  pointer: string;
  detail: string;
}

/** A body of a few megabytes can hold a million faults; whoever made it needs the first. */
export const MOST_FAULTS = 100;

interface ProblemExtras {
  errors?: Fault[];
  /** Whole seconds, for `Retry-After`. */
  retryAfter?: number;
  headers?: Record<string, string>;
  cause?: unknown;
}

/** An error whose text may reach the caller: thrown anywhere, rendered once, by the filter (RFC 9457). */
export class Problem extends Error {
  override readonly name = 'Problem';
  readonly errors: Fault[] | undefined;
  readonly headers: Record<string, string>;

  constructor(
    readonly code: ErrorCode,
    readonly detail: string,
    extras: ProblemExtras = {},
  ) {
    super(`${code}: ${detail}`, { cause: extras.cause });
    this.errors = extras.errors?.slice(0, MOST_FAULTS);
    this.headers = { ...extras.headers };
    if (extras.retryAfter !== undefined) this.headers['retry-after'] = String(extras.retryAfter);
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  /** The body as RFC 9457 defines it; `type` is a path of this service's documentation. */
  toJSON(): Record<string, unknown> {
    const { status, title } = ERRORS[this.code];
    return {
      type: `/docs/errors#${this.code}`,
      title,
      status,
      detail: this.detail,
      code: this.code,
      ...(this.errors === undefined ? {} : { errors: this.errors }),
    };
  }
}

/** What a log line says of something that was thrown. */
export const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : 'unknown error';

/** Why the service cannot start, in words for the operator, who needs no stack. */
export class StartError extends Error {
  override readonly name: string = 'StartError';
}
