import { Body, Controller, Delete, HttpCode, Param, Post, Req } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { PaidFrom } from '../auth/budgets.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { OpenConnectionsStore } from '../delivery/open-connections.store.ts';
import { StreamCommandsStore } from '../delivery/stream-commands.ts';
import { Describe, type Description } from '../http/description.ts';
import { userIdSchema } from '../core/identifiers.ts';
import { AuditedTransactions } from './audited-transactions.ts';
import {
  notFound,
  parseId,
  parseUserId,
  userQuerySchema,
  COMMON,
  DONE,
  EFFECT,
  WITH_ID,
} from './route-parts.ts';

const disconnectUserDescription: Description = {
  ...COMMON,
  id: 'disconnectUser',
  summary: 'End the streams of a user',
  description: `Those that are open now; also fine if there is none. The tokens stay good: revoke them to keep the user out. ${EFFECT}`,
  pathParameters: z.object({ id: userIdSchema }),
  byQuery: userQuerySchema,
  answers: [DONE],
  problems: [...COMMON.problems, 'not_found', 'too_many_requests'],
};

const closeConnectionDescription: Description = {
  ...WITH_ID,
  id: 'closeConnection',
  summary: 'End one stream',
  description: `The token stays good. ${EFFECT}`,
  pathParameters: z.object({ id: z.uuid().meta({ description: '`connectionId` of the stream.' }) }),
  answers: [DONE],
  problems: [...WITH_ID.problems, 'too_many_requests'],
};

const emptyBody = z.strictObject({});

/** Closes streams of the caller's tenant, on whichever node they are. Their tokens stay good: clients may come back. */
@Controller('v1')
export class DisconnectsController {
  constructor(
    private readonly commands: StreamCommandsStore,
    private readonly connections: OpenConnectionsStore,
    private readonly transactions: AuditedTransactions,
  ) {}

  /** Also for a user who has no stream: whether there is one may change while the order is on its way. */
  @Post(['users/:id/disconnect', 'users/disconnect'])
  @Describe(disconnectUserDescription)
  @HttpCode(204)
  @RequireScope('operations:write')
  @PaidFrom('admin actions')
  async disconnect(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Body() body: unknown,
  ): Promise<void> {
    const user = parseUserId(request);
    if (body !== undefined) parseBody(emptyBody, body);
    const { tenantId } = principal;
    const action = { action: 'user.disconnect', tenantId } as const;
    await this.transactions.perform(principal, request, action, async ({ run }) => {
      await this.commands.insert(run, tenantId, { kind: 'disconnect', user });
      return { result: undefined, change: { target: user, before: null, after: null } };
    });
  }

  @Delete('connections/:id')
  @Describe(closeConnectionDescription)
  @HttpCode(204)
  @RequireScope('operations:write')
  @PaidFrom('admin actions')
  async close(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Param('id') id: string,
  ): Promise<void> {
    refuseQuery(request.query);
    const connectionId = parseId(z.uuid(), id, 'open connection');
    const { tenantId } = principal;
    const action = { action: 'connection.close', tenantId } as const;
    const before = await this.connections.find(tenantId, connectionId);
    if (before === undefined) throw notFound('open connection');
    await this.transactions.perform(principal, request, action, async ({ run }) => {
      await this.commands.insert(run, tenantId, { kind: 'close', connectionId });
      return { result: undefined, change: { target: connectionId, before, after: null } };
    });
  }
}
