import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { AuditedTransactions } from '../admin/audited-transactions.ts';
import { notFound } from '../admin/request-parameters.ts';
import type { Principal } from '../http/principal.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import { TenantsStore } from '../tenants/tenants.store.ts';
import { orderedBy } from './audit-entry.ts';
import { ErasureWorker } from './erasure-worker.ts';
import { targetOf, type ErasureView } from './erasure.ts';
import { ErasureRegistry } from './erasure-registry.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';

/** How long whoever ordered an erasure waits for its end, in ms: longer than all but large ones take. */
const PATIENCE_MS = 5_000;

/** Orders erasures: what was ordered and the record of it are one transaction. */
@Injectable()
export class ErasureRequests {
  constructor(
    private readonly acts: AuditedTransactions,
    private readonly store: ErasureRegistryStore,
    private readonly tenants: TenantsStore,
    private readonly erasures: ErasureRegistry,
    private readonly eraser: ErasureWorker,
  ) {}

  /** Of a user of the caller's tenant. Joins an erasure of that user that is under way; returns its id. */
  async ofUser(principal: Principal, request: FastifyRequest, user: UserId): Promise<string> {
    const { tenantId } = principal;
    const act = { action: 'user.erase', tenantId } as const;
    return await this.acts.perform(principal, request, act, async ({ run }) => {
      const by = orderedBy(principal, request);
      const order = await this.store.begin(run, tenantId, user, by, this.eraser.id);
      if (order === undefined)
        throw new Problem('tenant_unknown', 'The tenant of the token is not registered.');
      const { id, joined } = order;
      const change = { target: targetOf(id, user), before: null, after: { erasure: id } };
      return { result: id, change: joined ? undefined : change };
    });
  }

  /** Of a whole tenant. Undefined: it was deleted before. Throws Problem `not_found`. */
  async ofTenant(
    principal: Principal,
    request: FastifyRequest,
    tenantId: TenantId,
  ): Promise<string | undefined> {
    const act = { action: 'tenant.delete', tenantId } as const;
    return await this.acts.perform(principal, request, act, async (transaction) => {
      const before = await this.tenants.lock(transaction, tenantId);
      if (before === undefined) throw notFound('tenant');
      if (before.status === 'deleted') return { result: undefined, change: undefined };
      const by = orderedBy(principal, request);
      const order = await this.store.begin(transaction.run, tenantId, undefined, by, this.eraser.id);
      if (order === undefined) throw new Error('an erasure of a tenant begins or is joined');
      if (order.joined) return { result: order.id, change: undefined };
      const after = await this.tenants.markDeleting(transaction, tenantId);
      return { result: order.id, change: { target: tenantId, before, after } };
    });
  }

  /** Waits a while for its end. Undefined: there is nothing left of it to wait for. */
  async outcome(tenantId: TenantId, id: string): Promise<ErasureView | undefined> {
    const patience = new AbortController();
    const subscription = this.erasures.heard.subscribe((erasure) => {
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
