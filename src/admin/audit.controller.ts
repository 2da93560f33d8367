import { Controller, Get, Header, Param, Query } from '@nestjs/common';
import { z } from 'zod';
import { type AuditRecord, AuditStore } from '../audit/audit.store.ts';
import { type TenantId, tenantIdSchema } from '../core/identifiers.ts';
import { parseQuery } from '../http/json-body.ts';
import { TenantsStore } from '../tenants/tenants.ts';
import { notFound, parseId } from './route-parts.ts';
import { DEFAULT_LIMIT, type Listing, pageOf, readCursor } from '../http/pages.ts';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { Describe } from '../http/description.ts';
import { listAuditDescription, listTenantAuditDescription, auditQuerySchema } from './audit.openapi.ts';

const place = z.tuple([z.uuid()]);

/** What administrators did, newest first. */
@Controller('v1')
export class AuditController {
  constructor(
    private readonly audit: AuditStore,
    private readonly tenants: TenantsStore,
  ) {}

  @Get('audit')
  @Describe(listAuditDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('history:read')
  async ofOwnTenant(@CurrentPrincipal() { tenantId }: Principal, @Query() query: unknown) {
    const { items, nextCursor } = await this.#page(tenantId, query, [tenantId, 'audit']);
    return { items: items.map((record) => itemOf(record, isOf(tenantId, record))), nextCursor };
  }

  @Get('tenants/:id/audit')
  @Describe(listTenantAuditDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async ofTenant(@CurrentPrincipal() principal: Principal, @Param('id') id: string, @Query() query: unknown) {
    const tenantId = parseId(tenantIdSchema, id, 'tenant');
    const listing: Listing = [principal.tenantId, 'tenants', tenantId, 'audit'];
    const { items, nextCursor } = await this.#page(tenantId, query, listing);
    // The tenant of an administrator need not be one that was ever published to; what it did is shown all the same.
    if (items.length === 0 && (await this.tenants.find(tenantId)) === undefined) throw notFound('tenant');
    return { items: items.map((record) => itemOf(record, true)), nextCursor };
  }

  async #page(tenantId: TenantId, query: unknown, of: Listing) {
    const { limit = DEFAULT_LIMIT, cursor, ...filters } = parseQuery(auditQuerySchema, query);
    const { action, since, until } = filters;
    const listing: Listing = [...of, action, since, until];
    const before = readCursor(listing, cursor, place)?.[0];
    const found = await this.audit.page(tenantId, { action, since, until }, before, limit + 1);
    return pageOf(found, limit, listing, ({ id }) => [id]);
  }
}

/** A command is of no tenant; there is nothing about it that another one would show. */
const isOf = (tenantId: TenantId, { actor }: AuditRecord): boolean =>
  actor.tenantId === null || actor.tenantId === tenantId;

/** `open`: who it was is shown. Otherwise nothing of the actor's own tenant is, and its request id is its own words. */
function itemOf({ id, at, action, target, before, after, ...by }: AuditRecord, open: boolean) {
  const { actor, remoteAddress, requestId } = by;
  return {
    id,
    at,
    action,
    target,
    actor: open ? actorOf(actor) : { kind: 'administrator' },
    remoteAddress: open ? remoteAddress : null,
    requestId: open ? requestId : null,
    before,
    after,
  };
}

const actorOf = ({ tenantId: tenant, subject, issuer }: AuditRecord['actor']) =>
  tenant === null ? { kind: 'command' } : { kind: 'service', tenant, subject, issuer };
