import { z } from 'zod';
import { userIdSchema } from '../core/identifiers.ts';
import { instantSchema } from '../core/position.ts';
import { cursor, limit, pageOf, time } from './page.schema.ts';

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

export const revocationsQuerySchema = z.strictObject({ limit, cursor });

const common = {
  id: z.uuid(),
  createdAt: time,
  expiresAt: time.meta({ description: 'When the last token that it concerns has ended.' }),
};

export const revocationSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({ ...common, kind: z.literal('token'), jti }),
    z.strictObject({ ...common, kind: z.literal('user'), user: userIdSchema, issuedBefore: time }),
  ])
  .meta({ id: 'Revocation' });

export const revocationsPageSchema = pageOf('RevocationsPage', revocationSchema);
