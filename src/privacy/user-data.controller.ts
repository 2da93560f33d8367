import { Controller, Delete, Get, Header, Param, Query, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { notFound, parseId, parseUserId } from '../admin/request-parameters.ts';
import { CurrentPrincipal, RequireScope } from '../http/access.decorator.ts';
import { PaidFrom } from '../auth/budgets.ts';
import type { Principal } from '../http/principal.ts';
import { refuseQuery } from '../http/json-body.ts';
import { beginLines, LINES_TYPE } from '../history/export.ts';
import { ErasureRequests } from './erasure-requests.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';
import { Exports } from './exports.ts';

/** All that is stored of one user of the caller's tenant. */
@Controller('v1')
export class UserDataController {
  constructor(
    private readonly exports: Exports,
    private readonly orders: ErasureRequests,
    private readonly erasures: ErasureRegistryStore,
  ) {}

  @Get(['users/:id/data', 'users/data'])
  @RequireScope('history:read')
  async export(
    @CurrentPrincipal() { tenantId }: Principal,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const lines = await beginLines(this.exports.lines(tenantId, parseUserId(request)));
    await reply.header('cache-control', 'no-store').type(LINES_TYPE).send(lines);
  }

  /** 204 when all of it is gone; 202 when that takes longer than a caller may be kept waiting. */
  @Delete(['users/:id/data', 'users/data'])
  @Header('cache-control', 'no-store')
  @RequireScope('operations:write')
  @PaidFrom('acts')
  async erase(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const user = parseUserId(request);
    const erasure = await this.orders.ofUser(principal, request, user);
    const outcome = await this.orders.outcome(principal.tenantId, erasure);
    if (outcome === undefined || outcome.status === 'done') await reply.status(204).send();
    else await reply.status(202).header('location', `/v1/erasures/${erasure}`).send(outcome);
  }

  @Get('erasures/:id')
  @Header('cache-control', 'no-store')
  @RequireScope('history:read', 'operations:write')
  async find(@CurrentPrincipal() { tenantId }: Principal, @Param('id') id: string, @Query() query: unknown) {
    refuseQuery(query);
    const erasure = await this.erasures.find(tenantId, parseId(z.uuid(), id, 'erasure'));
    if (erasure === undefined) throw notFound('erasure');
    return erasure;
  }
}
