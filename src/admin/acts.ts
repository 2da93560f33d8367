import { Injectable } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import type { Action } from '../audit/audit.ts';
import { AuditStore } from '../audit/audit.store.ts';
import type { Principal } from '../auth/principal.ts';
import { Changes } from '../changes/changes.ts';
import { AppendPool, type Pool } from '../database/pool.ts';
import type { TenantId } from '../identifiers.ts';

export interface Act {
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

/** Administrative acts: what they change and the record of it are one transaction. */
@Injectable()
export class Acts {
  constructor(
    private readonly pool: AppendPool,
    private readonly audit: AuditStore,
    private readonly changes: Changes,
  ) {}

  /**
   * Runs `work`, which locks and reads what it is about before it changes it, and records what it did. When this
   * resolves, the change is on disk and counts on this node. What `work` throws undoes all of it.
   */
  async perform<Result>(
    { tenantId: actorTenant, subject, issuer }: Principal,
    { ip, id: requestId }: FastifyRequest,
    { action, tenantId }: Act,
    work: (run: Pool['rows']) => Promise<Outcome<Result>>,
  ): Promise<Result> {
    const actor = { tenantId: actorTenant, subject, issuer };
    const { result, change } = await this.pool.transaction(async (run) => {
      const outcome = await work(run);
      if (outcome.change !== undefined)
        await this.audit.record(run, {
          tenantId,
          actor,
          remoteAddress: ip,
          requestId,
          action,
          ...outcome.change,
        });
      return outcome;
    });
    if (change !== undefined) await this.changes.now();
    return result;
  }
}
