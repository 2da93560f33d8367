import { z } from 'zod';
import { userIdSchema } from '../core/identifiers.ts';
import { instantSchema } from '../core/position.ts';
import { json, type Description } from '../http/description.ts';
import { pageParameters, pageSchema } from '../http/pages.ts';
import { COMMON, EFFECT, page, time } from './route-parts.ts';

/** As claims.ts reads it; NUL cannot be stored. */
const jti = z
  .string()
  .min(1)
  .max(255)
  .refine((text) => text.isWellFormed() && !text.includes('\u0000'), 'has no NUL and no lone surrogates')
  .meta({ description: 'The `jti` of the token.' });

export const newRevocationSchema = z
  .strictObject({
    token: z
      .strictObject({
        jti,
        expiresAt: instantSchema.optional().meta({
          description:
            '`exp` of the token. Without it the revocation is kept for the longest life of a token.',
        }),
      })
      .optional(),
    user: userIdSchema
      .optional()
      .meta({ description: '`sub` of the tokens: a user, or the client id of a service.' }),
    issuedBefore: instantSchema.optional().meta({
      description: 'With `user`: tokens issued before it, or without `iat`, are revoked. Default: now.',
    }),
  })
  .superRefine(({ token, user, issuedBefore }, context) => {
    if ((token === undefined) === (user === undefined))
      context.addIssue({ code: 'custom', message: 'names exactly one of token and user' });
    else if (token !== undefined && issuedBefore !== undefined)
      context.addIssue({ code: 'custom', path: ['issuedBefore'], message: 'goes with user, not with token' });
  })
  .meta({ id: 'NewRevocation' });
export type NewRevocation = z.infer<typeof newRevocationSchema>;

export const revocationsQuerySchema = z.strictObject(pageParameters);

const common = {
  id: z.uuid(),
  createdAt: time,
  expiresAt: time.meta({ description: 'When the last token that it concerns has ended.' }),
};

const revocationSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({ ...common, kind: z.literal('token'), jti }),
    z.strictObject({ ...common, kind: z.literal('user'), user: userIdSchema, issuedBefore: time }),
  ])
  .meta({ id: 'Revocation' });

const revocationsPageSchema = pageSchema('RevocationsPage', revocationSchema);

const revocations = {
  token: {
    id: '019aab3d-0a17-4c55-8f0e-2b8d1b6c94aa',
    kind: 'token',
    jti: 'f3b1c7',
    createdAt: '2026-11-22T16:00:31.007Z',
    expiresAt: '2026-11-22T17:00:00.000Z',
  },
  user: {
    id: '019aab3d-1c83-4f9a-9d31-77a2e0d5b6f2',
    kind: 'user',
    user: 'u-42',
    issuedBefore: '2026-11-22T16:00:35.764Z',
    createdAt: '2026-11-22T16:00:35.764Z',
    expiresAt: '2027-11-22T16:00:35.764Z',
  },
};

export const listRevocationsDescription: Description = {
  ...COMMON,
  id: 'listRevocations',
  summary: 'Revocations in force',
  description:
    'Newest first. One that is not listed has ended together with the last token that it concerned.',
  query: revocationsQuerySchema,
  answers: [page(revocationsPageSchema, revocations.user, revocations.token)],
};

export const revokeDescription: Description = {
  ...COMMON,
  id: 'revoke',
  summary: 'Revoke one token, or all that a user has',
  description: `Open streams with such a token end with \`bye\` \`revoked\`. ${EFFECT} It takes the place of what was revoked
before of the same token or user: \`expiresAt\` and \`issuedBefore\` are the latest of them.`,
  body: {
    schema: newRevocationSchema,
    examples: {
      user: { summary: 'Everything that a user has by now', value: { user: 'u-42' } },
      token: {
        summary: 'One token',
        value: { token: { jti: 'f3b1c7', expiresAt: '2026-11-22T17:00:00.000Z' } },
      },
    },
  },
  answers: [
    json(201, 'The revocation.', revocationSchema, {
      user: { summary: 'Of a user', value: revocations.user },
      token: { summary: 'Of a token', value: revocations.token },
    }),
  ],
  problems: [...COMMON.problems, 'revocations_full', 'too_many_requests'],
};
