import { Controller, Delete, Header, Param, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { parseId } from '../admin/request-parameters.ts';
import { CurrentPrincipal, RequireScope } from '../http/access.decorator.ts';
import type { Principal } from '../http/principal.ts';
import { tenantIdSchema } from '../core/identifiers.ts';
import { refuseQuery } from '../http/json-body.ts';
import { ErasureRequests } from './erasure-requests.ts';

/** The end of a tenant. Like everything in /v1/tenants it is about the tenant in the path. */
@Controller('v1/tenants')
export class DeletionController {
  constructor(private readonly orders: ErasureRequests) {}

  /** 204 when nothing is left of it; 202 when that takes longer than a caller may be kept waiting. */
  @Delete(':id')
  @Header('cache-control', 'no-store')
  @RequireScope('tenants:admin')
  async delete(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Param('id') id: string,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    refuseQuery(request.query);
    const tenantId = parseId(tenantIdSchema, id, 'tenant');
    const erasure = await this.orders.ofTenant(principal, request, tenantId);
    const outcome = erasure === undefined ? undefined : await this.orders.outcome(tenantId, erasure);
    if (outcome === undefined || outcome.status === 'done') await reply.status(204).send();
    else await reply.status(202).header('location', `/v1/tenants/${tenantId}`).send(outcome);
  }
}
