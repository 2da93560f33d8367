import { isDeepStrictEqual } from 'node:util';
import { Body, Controller, Get, Header, Inject, Param, Patch, Post, Query, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { type Config, CONFIG, isLoopback } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import { type TenantId, tenantIdSchema } from '../core/identifiers.ts';
import { LIMIT_NAMES, type LimitName, LIMITS, mostOf, NO_LIMITS, readLimits } from '../core/limits.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import {
  SET_STATUSES,
  type Tenant,
  TENANT_STATUSES,
  type TenantSettings,
  TenantsStore,
} from '../tenants/tenants.store.ts';
import { AuditedTransactions, type Outcome } from './audited-transactions.ts';
import { pageParameters, notFound, pageSchema, parseId, time } from './request-parameters.ts';
import { DEFAULT_LIMIT, type Listing, pageOf, readCursor } from '../history/page.ts';
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
type TenantPatch = z.infer<typeof tenantPatchSchema>;

export const tenantsQuerySchema = z.strictObject({
  status: statusSchema.optional().meta({ description: 'Without it all but the deleted are listed.' }),
  ...pageParameters,
});

export const tenantSchema = z
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

export const tenantsPageSchema = pageSchema('TenantsPage', tenantSchema);

const place = z.tuple([tenantIdSchema]);

/** The tenants of the installation. Here the tenant is the object of the action, and stands in the path. */
@Controller('v1/tenants')
export class TenantsController {
  constructor(
    private readonly tenants: TenantsStore,
    private readonly transactions: AuditedTransactions,
    @Inject(CONFIG) private readonly config: Pick<Config, 'MAX_REQUEST_BYTES'>,
  ) {}

  @Get()
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async list(@CurrentPrincipal() { tenantId }: Principal, @Query() query: unknown) {
    const { status, limit = DEFAULT_LIMIT, cursor } = parseQuery(tenantsQuerySchema, query);
    const listing: Listing = [tenantId, 'tenants', status];
    const after = cursor === undefined ? '' : readCursor(listing, cursor, place)[0];
    const found = await this.tenants.page(after, status, limit + 1);
    return pageOf(found, limit, listing, ({ id }) => [id]);
  }

  @Post()
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async create(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
    @Body() body: unknown,
  ): Promise<Tenant> {
    refuseQuery(request.query);
    const parsed = parseBody(newTenantSchema, body);
    const { id, name = null, keptDays = null, corsOrigins = [] } = parsed;
    const limits = readLimits(parsed.limits);
    this.#refuseUnbearable(limits);
    const settings: TenantSettings = { name, status: 'active', keptDays, corsOrigins, limits };
    const action = { action: 'tenant.create', tenantId: id } as const;
    const tenant = await this.transactions.perform(principal, request, action, async (transaction) => {
      const result = await this.tenants.create(transaction, id, settings);
      if (result === undefined) throw await this.#inTheWay(id);
      return { result, change: { target: id, before: null, after: result } };
    });
    reply.header('location', `/v1/tenants/${id}`);
    return tenant;
  }

  @Get(':id')
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async find(@Param('id') id: string, @Query() query: unknown): Promise<Tenant> {
    refuseQuery(query);
    const tenant = await this.tenants.find(parseId(tenantIdSchema, id, 'tenant'));
    if (tenant === undefined) throw notFound('tenant');
    return tenant;
  }

  @Patch(':id')
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async change(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Param('id') id: string,
    @Body() body: unknown,
  ): Promise<Tenant> {
    refuseQuery(request.query);
    const tenantId = parseId(tenantIdSchema, id, 'tenant');
    const patch = parseBody(tenantPatchSchema, body);
    this.#refuseUnbearable(patch.limits);
    const action = { action: 'tenant.update', tenantId } as const;
    return await this.transactions.perform(
      principal,
      request,
      action,
      async (transaction): Promise<Outcome<Tenant>> => {
        const before = await this.tenants.lock(transaction, tenantId);
        if (before === undefined) throw notFound('tenant');
        const settings = patched(living(before), patch);
        if (settings === undefined) return { result: before, change: undefined };
        const after = await this.tenants.update(transaction, tenantId, settings);
        return { result: after, change: { target: tenantId, before, after } };
      },
    );
  }

  /** What this process could not do for the tenant, whatever an administrator says. */
  #refuseUnbearable(limits: TenantPatch['limits']): void {
    const errors = LIMIT_NAMES.flatMap((name) => {
      const most = mostOf(name, this.config);
      if ((limits?.[name] ?? 0) <= most) return [];
      return [
        { pointer: `/limits/${name}`, detail: `is at most ${most}, as the settings of this service are` },
      ];
    });
    if (errors.length > 0) throw new Problem('validation_failed', 'The body is not valid.', { errors });
  }

  async #inTheWay(id: TenantId): Promise<Problem> {
    const tenant = await this.tenants.find(id);
    return tenant?.status === 'deleting'
      ? new Problem('tenant_deleted', `The tenant ${id} is being deleted.`)
      : new Problem('tenant_exists', `The tenant ${id} exists.`);
  }
}

function living({ name, status, keptDays, corsOrigins, limits }: Tenant): TenantSettings {
  if (status === 'deleting' || status === 'deleted')
    throw new Problem('tenant_deleted', 'There is nothing left of this tenant that could be changed.');
  return { name, status, keptDays, corsOrigins, limits };
}

/** Undefined: the patch changes nothing. */
function patched(before: TenantSettings, patch: TenantPatch): TenantSettings | undefined {
  const { name, status, keptDays, corsOrigins, limits } = before;
  const after: TenantSettings = {
    name: patch.name === undefined ? name : patch.name,
    status: patch.status ?? status,
    keptDays: patch.keptDays === undefined ? keptDays : patch.keptDays,
    corsOrigins: patch.corsOrigins === undefined ? corsOrigins : (patch.corsOrigins ?? []),
    limits: patch.limits === null ? NO_LIMITS : readLimits({ ...limits, ...patch.limits }),
  };
  return isDeepStrictEqual(before, after) ? undefined : after;
}
