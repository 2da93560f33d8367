import { Injectable } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import type { EntityManager } from 'typeorm';
import { type Action, recordAction } from '../audit/audit.store.ts';
import { ChangeFeed } from '../cluster/change-feed.ts';
import {
  CrossTenantTransactions,
  TenantTransactions,
  type TenantTransaction,
} from '../postgres/entity-transactions.ts';
import type { TenantId } from '../core/identifiers.ts';
import { type Principal } from '../http/access.ts';

export interface AdminAction {
  readonly action: Action;
  /** The tenant that it concerns; for what concerns none, that of the actor. */
  readonly tenantId: TenantId;
}

/** What an action did, as AuditEntry has it. */
export interface Change<Shown = unknown> {
  readonly target: string;
  readonly before: Shown | null;
  readonly after: Shown | null;
}

export interface Outcome<Result, Shown = unknown> {
  readonly result: Result;
  /** Undefined: everything was as it should be already, so there is nothing to record. */
  readonly change: Change<Shown> | undefined;
}

/**
 * Actions of administrators: what they change and the record of it are one transaction. `work` locks and reads what it is
 * about before it changes it; what it throws undoes all of it. When an action resolves, its change is on disk and counts
 * on this node.
 */
@Injectable()
export class AuditedTransactions {
  constructor(
    private readonly tenants: TenantTransactions,
    private readonly registry: CrossTenantTransactions,
    private readonly changes: ChangeFeed,
  ) {}

  /** An action in the tenant that it concerns. */
  async perform<Result>(
    principal: Principal,
    request: FastifyRequest,
    action: AdminAction,
    work: (transaction: TenantTransaction) => Promise<Outcome<Result>>,
  ): Promise<Result> {
    return await this.#commitAndLook(
      this.tenants.transaction(action.tenantId, async (transaction) =>
        recorded(transaction.entities, principal, request, action, await work(transaction)),
      ),
    );
  }

  /** An action on what belongs to no tenant. */
  async performOnRegistry<Result>(
    principal: Principal,
    request: FastifyRequest,
    action: AdminAction,
    work: (entities: EntityManager) => Promise<Outcome<Result>>,
  ): Promise<Result> {
    return await this.#commitAndLook(
      this.registry.transaction(async (entities) =>
        recorded(entities, principal, request, action, await work(entities)),
      ),
    );
  }

  async #commitAndLook<Result>(transaction: Promise<Outcome<Result>>): Promise<Result> {
    const { result, change } = await transaction;
    if (change !== undefined) await this.changes.now();
    return result;
  }
}

async function recorded<Result>(
  entities: EntityManager,
  { tenantId: actorTenant, subject, issuer }: Principal,
  { ip, id: requestId }: FastifyRequest,
  { action, tenantId }: AdminAction,
  outcome: Outcome<Result>,
): Promise<Outcome<Result>> {
  if (outcome.change !== undefined)
    await recordAction(entities, {
      tenantId,
      actor: { tenantId: actorTenant, subject, issuer },
      remoteAddress: ip,
      requestId,
      action,
      ...outcome.change,
    });
  return outcome;
}
