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
import { IssuersStore } from '../auth/issuers.ts';
import { issuerPatchSchema, issuerRegistrationSchema } from '../auth/registration.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import { DEFAULT_LIMIT, type Listing, pageOf, readCursor } from '../http/pages.ts';
import { AuditedTransactions } from './audited-transactions.ts';
import {
  changeIssuer,
  issuerView,
  type IssuerView,
  registerIssuer,
  removeIssuer,
} from './issuer-registry.ts';
import { notFound, parseId } from './route-parts.ts';
import { Describe } from '../http/description.ts';
import {
  listIssuersDescription,
  registerIssuerDescription,
  getIssuerDescription,
  changeIssuerDescription,
  removeIssuerDescription,
  issuersQuerySchema,
} from './issuers.openapi.ts';

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
  @Describe(listIssuersDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async list(@CurrentPrincipal() { tenantId }: Principal, @Query() query: unknown) {
    const { limit = DEFAULT_LIMIT, cursor } = parseQuery(issuersQuerySchema, query);
    const listing: Listing = [tenantId, 'issuers'];
    const after = readCursor(listing, cursor, place)?.[0];
    const found = await this.issuers.page(after, limit + 1);
    return pageOf(found.map(issuerView), limit, listing, ({ id }) => [id]);
  }

  @Post()
  @Describe(registerIssuerDescription)
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
  @Describe(getIssuerDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async find(@Param('id') id: string, @Query() query: unknown): Promise<IssuerView> {
    refuseQuery(query);
    const record = await this.issuers.find(parseId(z.uuid(), id, 'issuer'));
    if (record === undefined) throw notFound('issuer');
    return issuerView(record);
  }

  @Patch(':id')
  @Describe(changeIssuerDescription)
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
  @Describe(removeIssuerDescription)
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
