import { z } from 'zod';
import type { Description } from '../http/description.ts';

/** The body of `POST /v1/session`, if there is one: everything is in the token. */
export const sessionSchema = z.strictObject({}).meta({ id: 'SessionRequest' });

export const beginSessionDescription: Description = {
  id: 'beginSession',
  tag: 'Stream',
  summary: 'Put the token into a cookie',
  description: `Sets \`__Host-tidings\` to the bearer token of this request, until that token ends: \`HttpOnly\`, \`Secure\`,
\`SameSite\` as \`COOKIE_SAME_SITE\` says. From then on the browser sends it by itself, also with an \`EventSource\`. It does
for routes of users, and only from pages of this host or of an origin that the tenant allows.

A token that makes a cookie of more than 4096 bytes is refused, since browsers would not keep it.`,
  body: {
    schema: sessionSchema,
    required: false,
    examples: { default: { summary: 'Nothing', value: {} } },
  },
  answers: [{ status: 204, description: 'The cookie is set.', headers: ['Set-Cookie'] }],
  problems: ['keys_unavailable'],
};

export const endSessionDescription: Description = {
  id: 'endSession',
  tag: 'Stream',
  summary: 'Remove the cookie',
  description: `Also when the token in it has ended. Streams that are open stay open until their token ends; to end
them at once, revoke the token.`,
  answers: [{ status: 204, description: 'The cookie is removed.', headers: ['Set-Cookie'] }],
  problems: ['validation_failed', 'origin_refused'],
};
