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

export type RequestHeaderName = keyof typeof REQUEST_HEADERS;

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
