import { z } from 'zod';
import { isLoopback } from '../core/config.ts';
import { tenantIdSchema } from '../core/identifiers.ts';
import { type LimitName, LIMITS, readLimits } from '../core/limits.ts';
import { json, type Description } from '../http/description.ts';
import { SET_STATUSES, TENANT_STATUSES } from '../tenants/tenants.ts';
import { pageParameters, pageSchema } from '../http/pages.ts';
import { COMMON, EFFECT, page, PATCHING, WITH_ID, time } from './route-parts.ts';

const EXAMPLE = 'https://app.example.com';

/** An origin exactly as browsers put it into `Origin` (RFC 6454 §6.2): it is compared as text, so no other spelling would ever match. */
const originSchema = z
  .string()
  .max(300)
  .superRefine((text, context) => {
    const message = faultOfOrigin(text);
    if (message !== undefined) context.addIssue({ code: 'custom', message });
  })
  .meta({
    description: `An origin as browsers send it: scheme, host and, if it is not the usual one, port. https, or http on loopback. For example \`${EXAMPLE}\`.`,
  });

/** What is wrong with it; undefined if nothing is. */
function faultOfOrigin(text: string): string | undefined {
  if (text.includes('*')) return 'names one origin, without a wildcard; list each of them';
  // Sandboxed pages, files and redirects of anybody send this one.
  if (text === 'null') return 'is an origin of nobody in particular and cannot be allowed';
  const url = URL.parse(text);
  if (url === null) return `is an origin such as ${EXAMPLE}`;
  const { protocol, hostname: host, origin } = url;
  if (protocol !== 'https:' && !(protocol === 'http:' && isLoopback(host)))
    return 'begins with https://, or with http:// for localhost, 127.0.0.1 or [::1]';
  if (origin !== text) return `is not as browsers send it; they write ${origin}`;
  return undefined;
}

const nameSchema = z
  .string()
  .min(1)
  .max(200)
  .refine(
    (text) => text.isWellFormed() && !/\p{Cc}/u.test(text),
    'has no control characters and no lone surrogates',
  )
  .meta({ description: 'For people.' });
const keptDaysSchema = z.int().min(1).max(3_650).meta({
  description: 'How many days its notifications and their history are kept; null: `RETENTION_DAYS`.',
});
const corsOriginsSchema = z
  .array(originSchema)
  .max(100)
  .refine((origins) => new Set(origins).size === origins.length, 'names one origin twice')
  .meta({ description: 'Origins that its pages are served from, beside `CORS_ORIGINS`.' });
const SUSPENDED = '`suspended`: every request and open stream of the tenant is refused; nothing is lost.';
const statusSchema = z.enum(TENANT_STATUSES).meta({
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
    name: nameSchema.nullable().optional(),
    keptDays: keptDaysSchema.nullable().optional(),
    corsOrigins: corsOriginsSchema.optional(),
    limits: limitsPatchSchema.optional(),
  })
  .meta({ id: 'NewTenant' });

/** RFC 7396: null takes a value away, what is absent stays; so it is within `limits`, and no deeper. */
export const tenantPatchSchema = z
  .strictObject({
    name: nameSchema.nullable().optional(),
    status: z.enum(SET_STATUSES).optional().meta({ description: SUSPENDED }),
    keptDays: keptDaysSchema.nullable().optional(),
    corsOrigins: corsOriginsSchema.nullable().optional(),
    limits: limitsPatchSchema.nullable().optional(),
  })
  .meta({ id: 'TenantPatch' });
export type TenantPatch = z.infer<typeof tenantPatchSchema>;

export const tenantsQuerySchema = z.strictObject({
  status: statusSchema.optional().meta({ description: 'Without it all but the deleted are listed.' }),
  ...pageParameters,
});

const tenantSchema = z
  .strictObject({
    id: tenantIdSchema,
    name: nameSchema.nullable(),
    status: statusSchema,
    keptDays: keptDaysSchema.nullable(),
    corsOrigins: corsOriginsSchema,
    limits: limitsSchema,
    createdAt: time,
    updatedAt: time,
  })
  .meta({ id: 'Tenant' });

const tenantsPageSchema = pageSchema('TenantsPage', tenantSchema);

/* What is shown as an example is held against the schemas by a test. */

export const tenant = {
  id: 'acme',
  name: 'Acme Ltd.',
  status: 'active',
  keptDays: 90,
  corsOrigins: ['https://app.acme.example'],
  limits: { ...readLimits({ notificationsPerSecond: 500, connectionsPerUser: 20 }) },
  createdAt: '2026-11-22T16:00:00.123Z',
  updatedAt: '2026-11-22T16:00:00.123Z',
};

export const suspended = { ...tenant, status: 'suspended', updatedAt: '2026-11-22T16:00:46.110Z' };

export const ofTenant = z.object({ id: tenantIdSchema.meta({ description: 'The tenant.' }) });

export const listTenantsDescription: Description = {
  ...COMMON,
  id: 'listTenants',
  summary: 'The tenants of the installation',
  description: 'By id. Those that were deleted only with `status=deleted`.',
  query: tenantsQuerySchema,
  answers: [page(tenantsPageSchema, tenant)],
};

export const createTenantDescription: Description = {
  ...COMMON,
  id: 'createTenant',
  summary: 'Register a tenant',
  description: `With \`TENANT_PROVISIONING=auto\` the first publish or stream of a tenant makes it, too; but one that was
deleted is made anew here and nowhere else. ${EFFECT}`,
  body: {
    schema: newTenantSchema,
    examples: {
      small: { summary: 'Nothing but an id', value: { id: 'acme' } },
      full: {
        summary: 'Everything',
        value: {
          id: 'acme',
          name: 'Acme Ltd.',
          keptDays: 90,
          corsOrigins: ['https://app.acme.example'],
          limits: { notificationsPerSecond: 500, connectionsPerUser: 20 },
        },
      },
    },
  },
  answers: [
    {
      ...json(201, 'The tenant.', tenantSchema, { tenant: { summary: 'Registered', value: tenant } }),
      headers: ['Location'],
    },
  ],
  problems: [...COMMON.problems, 'tenant_exists', 'tenant_deleted'],
};

export const getTenantDescription: Description = {
  ...WITH_ID,
  id: 'getTenant',
  summary: 'One tenant',
  description: 'As it is now.',
  pathParameters: ofTenant,
  answers: [json(200, 'The tenant.', tenantSchema, { tenant: { summary: 'Active', value: tenant } })],
};

export const changeTenantDescription: Description = {
  ...WITH_ID,
  id: 'changeTenant',
  summary: 'Change, suspend or resume a tenant',
  description: `${PATCHING} A suspended tenant's streams end with \`bye\` \`revoked\`, its requests are refused, and nothing is
lost. \`limits\` is merged member by member, too; \`null\` gives a limit back to the settings of the service. ${EFFECT}`,
  pathParameters: ofTenant,
  body: {
    schema: tenantPatchSchema,
    examples: {
      suspend: { summary: 'Suspend it', value: { status: 'suspended' } },
      retention: { summary: 'Back to the usual retention', value: { keptDays: null } },
      limits: {
        summary: 'More of one, the usual of another',
        value: { limits: { notificationsPerSecond: 500, burst: null } },
      },
    },
  },
  answers: [json(200, 'The tenant.', tenantSchema, { tenant: { summary: 'Suspended', value: suspended } })],
  problems: [...WITH_ID.problems, 'tenant_deleted'],
};
