import { Injectable, type OnModuleInit } from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { TenantId } from '../core/identifiers.ts';
import type { Quota } from '../log/account.ts';
import { Quotas } from '../log/quota.ts';
import { rateLimitFields } from './rate-limit-fields.ts';
import { RejectionThrottle } from './rejection-throttle.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Charged to the account of the tenant. */
    publishes?: boolean;
  }
}

/**
 * What stands between a flood of publishes and the other tenants: while the account is empty, requests are refused before
 * their body is read, and whatever is refused is answered in its turn. And every answer says how the account stands.
 *
 * Only callers who may publish meet it. To others the guard gives its reasons, and the traffic of the tenant is none of
 * their business.
 */
@Injectable()
export class PublishAdmission implements OnModuleInit {
  constructor(
    private readonly host: HttpAdapterHost,
    private readonly accounts: Quotas,
    private readonly refusals: RejectionThrottle,
  ) {}

  /** After the hook that finds out who is calling. */
  onModuleInit(): void {
    const fastify = this.host.httpAdapter.getInstance<FastifyInstance>();
    fastify.addHook('preParsing', async (request, _reply, payload) => {
      const tenantId = publisherOf(request);
      if (tenantId !== undefined) await this.#refuse(request, tenantId);
      return payload;
    });
    fastify.addHook('onSend', async (request, reply, payload) => {
      const tenantId = publisherOf(request);
      if (tenantId === undefined) return payload;
      if (reply.statusCode >= 400 && reply.statusCode < 500) await this.refusals.turn(tenantId);
      await this.#tell(reply, tenantId);
      return payload;
    });
  }

  /**
   * A request with an Idempotency-Key passes: it may have been answered already, and its body says whether it is the same.
   * Nobody has counted what a request asks for yet, so that one may learn with the next try that it has to wait longer.
   */
  async #refuse({ headers }: FastifyRequest, tenantId: TenantId): Promise<void> {
    const account = await this.#account(tenantId);
    if (account === undefined || headers['idempotency-key'] !== undefined) return;
    const refusal = this.accounts.refusal(tenantId, account, 1, 1);
    if (refusal === undefined) return;
    this.refusals.note(tenantId);
    throw refusal;
  }

  async #tell(reply: FastifyReply, tenantId: TenantId): Promise<void> {
    // A request without a body has not come through the door.
    if ((await this.#account(tenantId)) === undefined) return;
    const standing = this.accounts.stateOf(tenantId);
    if (standing === undefined) return;
    const retryAfter = reply.getHeader('retry-after');
    reply.headers(rateLimitFields(standing, retryAfter === undefined ? undefined : Number(retryAfter)));
  }

  /** Undefined: the database is away, as whoever appends will say. */
  async #account(tenantId: TenantId): Promise<Quota | undefined> {
    return await this.accounts.open(tenantId, 1).catch(() => undefined);
  }
}

/** The tenant of a caller who may publish, on a route that does. */
function publisherOf({ routeOptions, user }: FastifyRequest): TenantId | undefined {
  if (routeOptions.config.publishes !== true) return undefined;
  return user?.scopes.has('notifications:publish') === true ? user.tenantId : undefined;
}
