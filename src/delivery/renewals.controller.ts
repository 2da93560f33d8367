import { Body, Controller, HttpCode, Post, Query } from '@nestjs/common';
import { CurrentPrincipal, UserOnly } from '../http/access.decorator.ts';
import { PaidFrom } from '../auth/budgets.ts';
import { tokenInvalid } from '../auth/bearer.ts';
import { isService, type Principal } from '../http/principal.ts';
import { Tokens } from '../auth/tokens.ts';
import { ChangeFeed } from '../cluster/change-feed.ts';
import { Problem } from '../core/errors.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { RouteSettings } from '../http/route-settings.ts';
import { Hubs } from './hubs.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';
import { renewalSchema } from './renewals.schema.ts';
import { StreamCommandsStore } from './stream-commands.store.ts';

/** A new token for an open stream, so that it need not end with the old one. */
@Controller('v1/stream/renewals')
export class RenewalsController {
  constructor(
    private readonly tokens: Tokens,
    private readonly hubs: Hubs,
    private readonly connections: OpenConnectionsStore,
    private readonly orders: StreamCommandsStore,
    private readonly changes: ChangeFeed,
  ) {}

  /** Answers when the renewal is stored; the node that holds the stream applies it within a second. */
  @Post()
  @RouteSettings({ bodyBytes: 16 * 1_024 })
  @HttpCode(202)
  @UserOnly()
  @PaidFrom('renewals')
  async renew(@CurrentPrincipal() caller: Principal, @Query() query: unknown, @Body() body: unknown) {
    refuseQuery(query);
    const { connectionId, token } = parseBody(renewalSchema, body);
    const renewed = await this.tokens.verify(token);
    // Streams forgive no clock difference.
    if (renewed.expiresAt <= Date.now()) throw tokenInvalid('The token has expired.');
    if (isService(renewed)) {
      throw new Problem('not_for_services', 'The new token carries the scope of a service.');
    }
    if (renewed.tenantId !== caller.tenantId || renewed.subject !== caller.subject) throw mismatch('user');

    const { tenantId, subject: user } = caller;
    const connection =
      this.hubs.find(tenantId, user, connectionId)?.subscriber ??
      (await this.connections.find(tenantId, connectionId));
    if (connection === undefined || connection.user !== user) {
      throw new Problem('not_found', 'No stream of this user with this connectionId is open.');
    }
    if (renewed.device !== undefined && renewed.device !== connection.device) throw mismatch('device');

    const { topics, expiresAt, issuer, tokenId, issuedAt } = renewed;
    await this.orders.renew(tenantId, {
      kind: 'renew',
      connectionId,
      user,
      renewed: { topics, expiresAt, issuer, tokenId, issuedAt },
    });
    await this.changes.now();
    return { tokenExpiresAt: new Date(expiresAt).toISOString() };
  }
}

const mismatch = (what: string) =>
  new Problem('subject_mismatch', `The new token is not that of the ${what} of the stream.`);
