import { z } from 'zod';
import { SERVICE_SCOPES, tenantIdSchema } from '../core/identifiers.ts';
import { ALGORITHMS } from '../auth/issuer.ts';
import { keptKeySetSchema } from '../auth/keys.ts';
import { cursor, limit, pageOf, time } from './page.schema.ts';

export const issuersQuerySchema = z.strictObject({ limit, cursor });

export const issuerSchema = z
  .strictObject({
    id: z.uuid(),
    iss: z.string(),
    name: z.string().nullable(),
    status: z.enum(['active', 'disabled']),
    jwksUrl: z.string().nullable(),
    keys: keptKeySetSchema.nullable().meta({ description: 'Public keys, if they were registered by value.' }),
    hasSecret: z
      .boolean()
      .meta({ description: 'Whether its tokens are signed with a secret, which is never shown.' }),
    algorithms: z.array(z.enum(ALGORITHMS)),
    audiences: z.array(z.string()),
    tenant: tenantIdSchema.nullable().meta({ description: 'The one tenant of all its tokens.' }),
    tenants: z
      .array(tenantIdSchema)
      .nullable()
      .meta({ description: 'The tenants that its tokens may name.' }),
    claims: z.strictObject({
      tenant: z.string(),
      user: z.string(),
      topics: z.string(),
      device: z.string(),
      scopes: z.array(z.string()),
    }),
    scopes: z.array(z.enum(SERVICE_SCOPES)),
    requireAtJwt: z.boolean(),
    revokedBefore: time
      .nullable()
      .meta({ description: 'Tokens issued before it, or without `iat`, are refused.' }),
    version: z
      .int()
      .min(1)
      .meta({ description: 'Grows with every change, also with one that is not shown.' }),
    createdAt: time,
    updatedAt: time,
  })
  .meta({ id: 'Issuer' });

export const issuersPageSchema = pageOf('IssuersPage', issuerSchema);
