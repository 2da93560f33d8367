import { isDeepStrictEqual } from 'node:util';
import {
  Body,
  Controller,
  Get,
  Header,
  Inject,
  Param,
  Patch,
  Post,
  Query,
  Req,
  Res,
  Module,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { type Config, CONFIG } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import { type TenantId, tenantIdSchema } from '../core/identifiers.ts';
import { LIMIT_NAMES, mostOf, NO_LIMITS, readLimits } from '../core/limits.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import { type Tenant, type TenantSettings, TenantsStore, TenantsModule } from '../tenants/tenants.ts';
import { DEFAULT_LIMIT, type Listing, pageOf, readCursor } from '../http/pages.ts';
import { Describe } from '../http/description.ts';
import { AuditModule } from '../audit/audit.store.ts';
import { IssuersModule } from '../auth/issuers.ts';
import { ChangeFeedModule } from '../cluster/change-feed.ts';
import { RevocationsModule } from '../auth/revocations.ts';
import { StreamModule } from '../delivery/stream.controller.ts';
import { AuditedTransactions, type Outcome } from './audited-transactions.ts';
import { notFound, parseId } from './route-parts.ts';
import {
  listTenantsDescription,
  createTenantDescription,
  getTenantDescription,
  changeTenantDescription,
  newTenantSchema,
  tenantPatchSchema,
  tenantsQuerySchema,
  type TenantPatch,
} from './tenants.openapi.ts';
import { AuditController } from './audit.controller.ts';
import { DisconnectsController } from './disconnects.controller.ts';
import { IssuersController } from './issuers.controller.ts';
import { RevocationsController } from './revocations.controller.ts';

const place = z.tuple([tenantIdSchema]);

/** The tenants of the installation. Here the tenant is the object of the action, and stands in the path. */
@Controller('v1/tenants')
class TenantsController {
  constructor(
    private readonly tenants: TenantsStore,
    private readonly transactions: AuditedTransactions,
    @Inject(CONFIG) private readonly config: Pick<Config, 'MAX_REQUEST_BYTES'>,
  ) {}

  @Get()
  @Describe(listTenantsDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async list(@CurrentPrincipal() { tenantId }: Principal, @Query() query: unknown) {
    const { status, limit = DEFAULT_LIMIT, cursor } = parseQuery(tenantsQuerySchema, query);
    const listing: Listing = [tenantId, 'tenants', status];
    const after = readCursor(listing, cursor, place)?.[0] ?? '';
    const found = await this.tenants.page(after, status, limit + 1);
    return pageOf(found, limit, listing, ({ id }) => [id]);
  }

  @Post()
  @Describe(createTenantDescription)
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
  @Describe(getTenantDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async find(@Param('id') id: string, @Query() query: unknown): Promise<Tenant> {
    refuseQuery(query);
    const tenant = await this.tenants.find(parseId(tenantIdSchema, id, 'tenant'));
    if (tenant === undefined) throw notFound('tenant');
    return tenant;
  }

  @Patch(':id')
  @Describe(changeTenantDescription)
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

/** What administrators and operators do, and the record of it. */
@Module({
  imports: [AuditModule, ChangeFeedModule, IssuersModule, RevocationsModule, StreamModule, TenantsModule],
  controllers: [
    TenantsController,
    IssuersController,
    RevocationsController,
    DisconnectsController,
    AuditController,
  ],
  providers: [AuditedTransactions],
  exports: [AuditedTransactions],
})
export class AdminModule {}
