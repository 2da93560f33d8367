import { z } from 'zod';
import { tenantIdSchema } from '../core/identifiers.ts';
import { LIMITS, type LimitName } from '../core/limits.ts';
import { originSchema } from '../tenants/origin.ts';
import { SET_STATUSES, TENANT_STATUSES } from '../tenants/tenants.store.ts';
import { cursor, limit, pageOf, time } from './page.schema.ts';

const name = z
  .string()
  .min(1)
  .max(200)
  .refine(
    (text) => text.isWellFormed() && !/\p{Cc}/u.test(text),
    'has no control characters and no lone surrogates',
  )
  .meta({ description: 'For people.' });
const keptDays = z.int().min(1).max(3_650).meta({
  description: 'How many days its notifications and their history are kept; null: `RETENTION_DAYS`.',
});
const corsOrigins = z
  .array(originSchema)
  .max(100)
  .refine((origins) => new Set(origins).size === origins.length, 'names one origin twice')
  .meta({ description: 'Origins that its pages are served from, beside `CORS_ORIGINS`.' });
const SUSPENDED = '`suspended`: every request and open stream of the tenant is refused; nothing is lost.';
const status = z.enum(TENANT_STATUSES).meta({
  description: `${SUSPENDED} \`deleting\`, then \`deleted\`: \`DELETE /v1/tenants/{id}\` was called; the same, and all is lost.`,
});

const limitOf = (which: LimitName) => {
  const { least, most, meaning } = LIMITS[which];
  return z.int().min(least).max(most).nullable().meta({ description: meaning });
};
const limitsSchema = z
  .strictObject({
    notificationsPerSecond: limitOf('notificationsPerSecond'),
    burst: limitOf('burst'),
    dataBytes: limitOf('dataBytes'),
    storedBytes: limitOf('storedBytes'),
    topicsPerToken: limitOf('topicsPerToken'),
    connections: limitOf('connections'),
    connectionsPerUser: limitOf('connectionsPerUser'),
    devicesPerUser: limitOf('devicesPerUser'),
  })
  .meta({ id: 'TenantLimits', description: 'What it may use; null: the settings of the service decide.' });
const limitsPatchSchema = limitsSchema.partial().meta({
  id: 'TenantLimitsPatch',
  description: 'Merged member by member; null: the settings decide again.',
});

export const newTenantSchema = z
  .strictObject({
    id: tenantIdSchema,
    name: name.nullable().optional(),
    keptDays: keptDays.nullable().optional(),
    corsOrigins: corsOrigins.optional(),
    limits: limitsPatchSchema.optional(),
  })
  .meta({ id: 'NewTenant' });

/** RFC 7396: null takes a value away, what is absent stays; so it is within `limits`, and no deeper. */
export const tenantPatchSchema = z
  .strictObject({
    name: name.nullable().optional(),
    status: z.enum(SET_STATUSES).optional().meta({ description: SUSPENDED }),
    keptDays: keptDays.nullable().optional(),
    corsOrigins: corsOrigins.nullable().optional(),
    limits: limitsPatchSchema.nullable().optional(),
  })
  .meta({ id: 'TenantPatch' });
export type TenantPatch = z.infer<typeof tenantPatchSchema>;

export const tenantsQuerySchema = z.strictObject({
  status: status.optional().meta({ description: 'Without it all but the deleted are listed.' }),
  limit,
  cursor,
});

export const tenantSchema = z
  .strictObject({
    id: tenantIdSchema,
    name: name.nullable(),
    status,
    keptDays: keptDays.nullable(),
    corsOrigins,
    limits: limitsSchema,
    createdAt: time,
    updatedAt: time,
  })
  .meta({ id: 'Tenant' });

export const tenantsPageSchema = pageOf('TenantsPage', tenantSchema);
