import { setTimeout as sleep } from 'node:timers/promises';
import { Controller, Delete, Get, Header, Injectable, Module, Param, Query, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { AdminModule } from '../admin/tenants.controller.ts';
import { AuditedTransactions } from '../admin/audited-transactions.ts';
import { notFound, parseId, parseUserId } from '../admin/route-parts.ts';
import { PaidFrom } from '../auth/budgets.ts';
import { Problem } from '../core/errors.ts';
import { tenantIdSchema, type TenantId, type UserId } from '../core/identifiers.ts';
import { HistoryModule } from '../history/history.controller.ts';
import { beginLines, LINES_TYPE } from '../http/pages.ts';
import { refuseQuery } from '../http/json-body.ts';
import { TenantsStore, TenantsModule } from '../tenants/tenants.ts';
import { requesterOf, targetOf, type ErasureView } from './erasure.ts';
import { ErasurePurger, ErasureRegistry, ErasureRegistryStore } from './erasure-registry.ts';
import { ErasureWorker, ErasureWorkerStore } from './erasure-worker.ts';
import { ExportStore, UserExport } from './export.store.ts';
import { AuditModule } from '../audit/audit.store.ts';
import { ChangeFeedModule } from '../cluster/change-feed.ts';
import { StreamModule } from '../delivery/stream.controller.ts';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { Describe } from '../http/description.ts';
import {
  exportUserDataDescription,
  eraseUserDataDescription,
  getErasureDescription,
  deleteTenantDescription,
} from './privacy.openapi.ts';

/** How long a caller is kept waiting for the end of an erasure, in ms. Only large ones take longer. */
const PATIENCE_MS = 5_000;

/** Begins erasures. The row of the erasure and its audit entry are written by one transaction. */
@Injectable()
class ErasureRequests {
  constructor(
    private readonly transactions: AuditedTransactions,
    private readonly store: ErasureRegistryStore,
    private readonly tenants: TenantsStore,
    private readonly registry: ErasureRegistry,
    private readonly worker: ErasureWorker,
  ) {}

  /**
   * Begins the erasure of a user of the caller's tenant, or joins the one of that user that is under way. Returns its id.
   * Throws Problem `tenant_unknown` if the tenant is being deleted.
   */
  async ofUser(principal: Principal, request: FastifyRequest, user: UserId): Promise<string> {
    const { tenantId } = principal;
    const action = { action: 'user.erase', tenantId } as const;
    return await this.transactions.perform(principal, request, action, async ({ run }) => {
      const by = requesterOf(principal, request);
      const begun = await this.store.begin(run, tenantId, user, by, this.worker.id);
      if (begun === undefined)
        throw new Problem('tenant_unknown', 'The tenant of the token is not registered.');
      const { id, joined } = begun;
      const change = { target: targetOf(id, user), before: null, after: { erasure: id } };
      return { result: id, change: joined ? undefined : change };
    });
  }

  /** Begins the erasure of a whole tenant, or joins it. Undefined: the tenant was deleted before. Throws Problem `not_found`. */
  async ofTenant(
    principal: Principal,
    request: FastifyRequest,
    tenantId: TenantId,
  ): Promise<string | undefined> {
    const action = { action: 'tenant.delete', tenantId } as const;
    return await this.transactions.perform(principal, request, action, async (transaction) => {
      const before = await this.tenants.lock(transaction, tenantId);
      if (before === undefined) throw notFound('tenant');
      if (before.status === 'deleted') return { result: undefined, change: undefined };
      const by = requesterOf(principal, request);
      const begun = await this.store.begin(transaction.run, tenantId, undefined, by, this.worker.id);
      if (begun === undefined) throw new Error('an erasure of a tenant begins or is joined');
      if (begun.joined) return { result: begun.id, change: undefined };
      const after = await this.tenants.markDeleting(transaction, tenantId);
      return { result: begun.id, change: { target: tenantId, before, after } };
    });
  }

  /** Waits for the end of an erasure, but not longer than PATIENCE_MS. Undefined: its row is gone together with the tenant. */
  async outcome(tenantId: TenantId, id: string): Promise<ErasureView | undefined> {
    const patience = new AbortController();
    const subscription = this.registry.updates.subscribe((erasure) => {
      if (erasure.id === id && erasure.done) patience.abort();
    });
    try {
      const view = await this.store.find(tenantId, id);
      if (view === undefined || view.status === 'done') return view;
      await sleep(PATIENCE_MS, undefined, { signal: patience.signal }).catch(() => undefined);
      return await this.store.find(tenantId, id);
    } finally {
      subscription.unsubscribe();
    }
  }
}

/** Export and erasure of all that is stored of one user of the caller's tenant. */
@Controller('v1')
class UserDataController {
  constructor(
    private readonly userExport: UserExport,
    private readonly requests: ErasureRequests,
    private readonly store: ErasureRegistryStore,
  ) {}

  @Get(['users/:id/data', 'users/data'])
  @Describe(exportUserDataDescription)
  @RequireScope('history:read')
  async export(
    @CurrentPrincipal() { tenantId }: Principal,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const lines = await beginLines(this.userExport.lines(tenantId, parseUserId(request)));
    await reply.header('cache-control', 'no-store').type(LINES_TYPE).send(lines);
  }

  /** 204 when everything is gone; 202 with the state of the erasure when that takes longer than PATIENCE_MS. */
  @Delete(['users/:id/data', 'users/data'])
  @Describe(eraseUserDataDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('operations:write')
  @PaidFrom('admin actions')
  async erase(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const user = parseUserId(request);
    const erasure = await this.requests.ofUser(principal, request, user);
    const outcome = await this.requests.outcome(principal.tenantId, erasure);
    if (outcome === undefined || outcome.status === 'done') await reply.status(204).send();
    else await reply.status(202).header('location', `/v1/erasures/${erasure}`).send(outcome);
  }

  @Get('erasures/:id')
  @Describe(getErasureDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('history:read', 'operations:write')
  async find(@CurrentPrincipal() { tenantId }: Principal, @Param('id') id: string, @Query() query: unknown) {
    refuseQuery(query);
    const erasure = await this.store.find(tenantId, parseId(z.uuid(), id, 'erasure'));
    if (erasure === undefined) throw notFound('erasure');
    return erasure;
  }
}

/** Deletion of a tenant: the one in the path, as everywhere in /v1/tenants. */
@Controller('v1/tenants')
class DeletionController {
  constructor(private readonly requests: ErasureRequests) {}

  /** 204 when nothing of it is left; 202 with the state of the erasure when that takes longer than PATIENCE_MS. */
  @Delete(':id')
  @Describe(deleteTenantDescription)
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
    const erasure = await this.requests.ofTenant(principal, request, tenantId);
    const outcome = erasure === undefined ? undefined : await this.requests.outcome(tenantId, erasure);
    if (outcome === undefined || outcome.status === 'done') await reply.status(204).send();
    else await reply.status(202).header('location', `/v1/tenants/${tenantId}`).send(outcome);
  }
}

/** Export and erasure of a user, deletion of a tenant. */
@Module({
  imports: [AdminModule, AuditModule, ChangeFeedModule, HistoryModule, StreamModule, TenantsModule],
  controllers: [UserDataController, DeletionController],
  providers: [
    ErasureRegistry,
    ErasureRegistryStore,
    ErasureWorkerStore,
    ErasurePurger,
    ErasureRequests,
    ErasureWorker,
    UserExport,
    ExportStore,
  ],
})
export class PrivacyModule {}
