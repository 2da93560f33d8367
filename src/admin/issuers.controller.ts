import {
  Body,
  Controller,
  Delete,
  Get,
  Header,
  HttpCode,
  Inject,
  Param,
  Patch,
  Post,
  Query,
  Req,
  Res,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { IssuersStore } from '../auth/issuers.store.ts';
import { issuerPatchSchema, issuerRegistrationSchema } from '../auth/registration.schema.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import { DEFAULT_LIMIT, type Listing, pageOf, readCursor } from '../history/page.ts';
import { AuditedTransactions } from './audited-transactions.ts';
import {
  changeIssuer,
  issuerView,
  type IssuerView,
  registerIssuer,
  removeIssuer,
} from './issuer-registry.ts';
import { pageParameters, notFound, pageSchema, parseId, time } from './request-parameters.ts';
import { SERVICE_SCOPES, tenantIdSchema } from '../core/identifiers.ts';
import { ALGORITHMS } from '../auth/issuer.ts';
import { keptKeySetSchema } from '../auth/keys.ts';
export const issuersQuerySchema = z.strictObject(pageParameters);

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

export const issuersPageSchema = pageSchema('IssuersPage', issuerSchema);

const place = z.tuple([z.uuid()]);

/** Who may sign tokens. An issuer belongs to no tenant; what is done to it is recorded in that of the actor. */
@Controller('v1/issuers')
export class IssuersController {
  constructor(
    private readonly issuers: IssuersStore,
    private readonly transactions: AuditedTransactions,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Get()
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async list(@CurrentPrincipal() { tenantId }: Principal, @Query() query: unknown) {
    const { limit = DEFAULT_LIMIT, cursor } = parseQuery(issuersQuerySchema, query);
    const listing: Listing = [tenantId, 'issuers'];
    const after = cursor === undefined ? undefined : readCursor(listing, cursor, place)[0];
    const found = await this.issuers.page(after, limit + 1);
    return pageOf(found.map(issuerView), limit, listing, ({ id }) => [id]);
  }

  @Post()
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async register(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
    @Body() body: unknown,
  ): Promise<IssuerView> {
    refuseQuery(request.query);
    const registration = parseBody(issuerRegistrationSchema, body);
    const action = { action: 'issuer.create', tenantId: principal.tenantId } as const;
    const issuer = await this.transactions.performOnRegistry(principal, request, action, (entities) =>
      registerIssuer(entities, this.issuers, registration, this.config),
    );
    reply.header('location', `/v1/issuers/${issuer.id}`);
    return issuer;
  }

  @Get(':id')
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async find(@Param('id') id: string, @Query() query: unknown): Promise<IssuerView> {
    refuseQuery(query);
    const record = await this.issuers.find(parseId(z.uuid(), id, 'issuer'));
    if (record === undefined) throw notFound('issuer');
    return issuerView(record);
  }

  @Patch(':id')
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async change(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Param('id') id: string,
    @Body() body: unknown,
  ): Promise<IssuerView> {
    refuseQuery(request.query);
    const issuerId = parseId(z.uuid(), id, 'issuer');
    const patch = parseBody(issuerPatchSchema, body);
    const action = { action: 'issuer.update', tenantId: principal.tenantId } as const;
    return await this.transactions.performOnRegistry(principal, request, action, (entities) =>
      changeIssuer(entities, this.issuers, issuerId, patch, this.config),
    );
  }

  @Delete(':id')
  @HttpCode(204)
  @RequireScope('tenants:admin')
  async remove(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Param('id') id: string,
  ): Promise<void> {
    refuseQuery(request.query);
    const issuerId = parseId(z.uuid(), id, 'issuer');
    const action = { action: 'issuer.delete', tenantId: principal.tenantId } as const;
    await this.transactions.performOnRegistry(principal, request, action, (entities) =>
      removeIssuer(entities, this.issuers, issuerId),
    );
  }
}
