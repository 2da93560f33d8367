import { Controller, Get, Header, Param, Query } from '@nestjs/common';
import { z } from 'zod';
import { ACTIONS, type AuditRecord, AuditStore } from '../audit/audit.store.ts';
import { type TenantId, tenantIdSchema } from '../core/identifiers.ts';
import { parseQuery } from '../http/json-body.ts';
import { TenantsStore } from '../tenants/tenants.store.ts';
import { pageParameters, notFound, pageSchema, parseId, time } from './request-parameters.ts';
import { DEFAULT_LIMIT, historyQuerySchema, type Listing, pageOf, readCursor } from '../history/page.ts';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';

const actionSchema = z.enum(ACTIONS);
const period = historyQuerySchema.shape;

export const auditQuerySchema = z.strictObject({
  action: actionSchema.optional(),
  since: period.since.meta({ description: 'Done at or after this time.' }),
  until: period.until.meta({ description: 'Done before this time.' }),
  ...pageParameters,
});

const actorSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('service'),
      tenant: tenantIdSchema,
      subject: z.string().meta({ description: '`sub` of its token.' }),
      issuer: z.string().nullable().meta({ description: '`iss` of its token.' }),
    }),
    z.strictObject({ kind: z.literal('command') }),
    z.strictObject({ kind: z.literal('administrator') }),
  ])
  .meta({
    id: 'Actor',
    description:
      'Who did it. `command`: somebody at the installation itself. `administrator`: somebody of another tenant, who is not shown.',
  });

const content = (description: string) => z.json().meta({ description });

const auditItemSchema = z
  .strictObject({
    id: z.uuid(),
    at: time,
    action: actionSchema,
    target: z.string().meta({
      description:
        'The id of the tenant, issuer, revocation, user or connection. A user who is erased is not named: `sha256:` and the SHA-256 of the id of the erasure, a colon and the id of the user.',
    }),
    actor: actorSchema,
    remoteAddress: z.string().nullable().meta({ description: 'Where the request came from.' }),
    requestId: z.string().nullable(),
    before: content('What the API showed of the target; null: there was none.'),
    after: content('The same after the act; null: there is none any more.'),
  })
  .meta({ id: 'AuditItem', description: 'An administrative act.' });

export const auditPageSchema = pageSchema('AuditPage', auditItemSchema);

const place = z.tuple([z.uuid()]);

/** What administrators did, newest first. */
@Controller('v1')
export class AuditController {
  constructor(
    private readonly audit: AuditStore,
    private readonly tenants: TenantsStore,
  ) {}

  @Get('audit')
  @Header('cache-control', 'no-store')
  @RequireScope('history:read')
  async ofOwnTenant(@CurrentPrincipal() { tenantId }: Principal, @Query() query: unknown) {
    const { items, nextCursor } = await this.#page(tenantId, query, [tenantId, 'audit']);
    return { items: items.map((record) => itemOf(record, isOf(tenantId, record))), nextCursor };
  }

  @Get('tenants/:id/audit')
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
    const before = cursor === undefined ? undefined : readCursor(listing, cursor, place)[0];
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
