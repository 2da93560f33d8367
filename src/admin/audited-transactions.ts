import { Injectable } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import type { Action } from '../audit/audit.ts';
import { recordAction } from '../audit/audit.store.ts';
import type { Principal } from '../http/principal.ts';
import { ChangeFeed } from '../cluster/change-feed.ts';
import type { Pool } from '../postgres/pool.ts';
import { ClientPool, CrossTenantPool } from '../postgres/pools.ts';
import { namingTenant, type RunOfTenant } from '../postgres/tenant-pool.ts';
import type { TenantId } from '../core/identifiers.ts';

export interface AdminAction {
  readonly action: Action;
  /** The tenant that it concerns; for what concerns none, that of the actor. */
  readonly tenantId: TenantId;
}

/** What an act did, as AuditEntry has it. */
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
 * Administrative acts: what they change and the record of it are one transaction. `work` locks and reads what it is
 * about before it changes it; what it throws undoes all of it. When an act resolves, its change is on disk and counts
 * on this node.
 */
@Injectable()
export class AuditedTransactions {
  constructor(
    private readonly pool: ClientPool,
    private readonly engine: CrossTenantPool,
    private readonly changes: ChangeFeed,
  ) {}

  /** An act in the tenant that it concerns. */
  async perform<Result>(
    principal: Principal,
    request: FastifyRequest,
    act: AdminAction,
    work: (run: RunOfTenant) => Promise<Outcome<Result>>,
  ): Promise<Result> {
    return await this.#settle(
      this.pool.transaction(act.tenantId, async (run) =>
        recorded(run, principal, request, act, await work(run)),
      ),
    );
  }

  /** An act on what belongs to no tenant. */
  async performOnRegistry<Result>(
    principal: Principal,
    request: FastifyRequest,
    act: AdminAction,
    work: (run: Pool['rows']) => Promise<Outcome<Result>>,
  ): Promise<Result> {
    return await this.#settle(
      this.engine.transaction(async (run) =>
        recorded(namingTenant(run), principal, request, act, await work(run)),
      ),
    );
  }

  async #settle<Result>(transaction: Promise<Outcome<Result>>): Promise<Result> {
    const { result, change } = await transaction;
    if (change !== undefined) await this.changes.now();
    return result;
  }
}

async function recorded<Result>(
  run: RunOfTenant,
  { tenantId: actorTenant, subject, issuer }: Principal,
  { ip, id: requestId }: FastifyRequest,
  { action, tenantId }: AdminAction,
  outcome: Outcome<Result>,
): Promise<Outcome<Result>> {
  if (outcome.change !== undefined)
    await recordAction(run, {
      tenantId,
      actor: { tenantId: actorTenant, subject, issuer },
      remoteAddress: ip,
      requestId,
      action,
      ...outcome.change,
    });
  return outcome;
}
