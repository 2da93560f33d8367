import {
  type ArgumentsHost,
  Body,
  Catch,
  Controller,
  type ExceptionFilter,
  Get,
  Header,
  Headers,
  HttpCode,
  Inject,
  Module,
  Post,
  Query,
  Req,
  Res,
  UseFilters,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CurrentPrincipal, isService, type Principal, RouteSettings, UserOnly } from '../http/access.ts';
import { type Config, CONFIG } from '../core/config.ts';
import { DEFAULT_DEVICE } from '../core/identifiers.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import { parsePosition } from '../core/position.ts';
import { byeFrame, jittered } from './frames.ts';
import { openEventStream, STREAM_HEADERS } from './socket.ts';
import { StreamOpener } from './stream-opener.ts';
import { PaidFrom } from '../auth/budgets.ts';
import { tokenInvalid } from '../auth/credentials.ts';
import { Tokens } from '../auth/tokens.ts';
import { ChangeFeed, ChangeFeedModule } from '../cluster/change-feed.ts';
import { Problem } from '../core/errors.ts';
import { Hubs } from './hubs.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';
import { StreamCommandsStore, StreamCommands, StreamControl } from './stream-commands.ts';
import { Tickets } from '../auth/tickets.ts';
import { sendProblem, toProblem } from '../http/problems.ts';
import { AuthModule } from '../auth/token.guard.ts';
import { ReceiptsModule } from '../receipts/receipts.ts';
import { InboxModule } from '../inbox/inbox.controller.ts';
import { InboxFeed } from './inbox-feed.ts';
import { LogFeed } from './log-feed.ts';
import { Backlog } from './backlog.ts';
import { ConnectionQuota } from './connection-quota.ts';
import { NodePurge } from './node-purge.ts';
import { Eviction } from './eviction.ts';
import { Streams } from './streams.ts';
import { TenantsModule } from '../tenants/tenants.ts';
import { Describe } from '../http/description.ts';
import {
  openStreamDescription,
  renewStreamDescription,
  issueTicketDescription,
  streamQuerySchema,
  renewalSchema,
  ticketRequestSchema,
  type Ticket,
} from './stream.openapi.ts';

/**
 * Errors on the way to a stream. Trouble that passes by itself (503: the key server does not answer) is said in the
 * stream, since after any status but 200 an EventSource gives up for ever.
 */
@Catch()
class PassingTroubleFilter implements ExceptionFilter {
  constructor(@Inject(CONFIG) private readonly config: Config) {}

  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const reply = http.getResponse<FastifyReply>();
    const { id, method } = http.getRequest<FastifyRequest>();
    const problem = toProblem(error, id);
    // An answer to HEAD has no body, so it is no stream either (RFC 9110 § 9.3.2).
    if (problem.status !== 503 || method === 'HEAD') {
      sendProblem(reply, problem);
      return;
    }
    const stream = openEventStream(reply, jittered(this.config.STREAM_RETRY_MS));
    stream?.end(byeFrame('unavailable', jittered(this.config.STREAM_RETRY_MS)));
  }
}

@Controller('v1/stream')
@UseFilters(PassingTroubleFilter)
class StreamController {
  constructor(
    private readonly opener: StreamOpener,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Get()
  @Describe(openStreamDescription)
  @UserOnly({ clockTolerance: false, ticketQuery: streamQuerySchema })
  async stream(
    @CurrentPrincipal() principal: Principal,
    @Query() rawQuery: unknown,
    @Headers('last-event-id') header: string | undefined,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const query = parseQuery(streamQuerySchema, rawQuery);
    if (request.method === 'HEAD') {
      // Fastify answers HEAD by the handler of GET; a stream has no end that could be cut off behind its head.
      await reply.headers(STREAM_HEADERS).send();
      return;
    }
    const stream = openEventStream(reply, jittered(this.config.STREAM_RETRY_MS));
    if (stream === undefined) return;

    const { tenantId, subject: user, topics, expiresAt: tokenExpiresAt } = principal;
    const sent = header || query.lastEventId || undefined;
    const resume = sent === undefined ? undefined : parsePosition(sent);
    await this.opener.open(
      {
        tenantId,
        user,
        device: principal.device ?? query.device ?? DEFAULT_DEVICE,
        topics,
        tokenExpiresAt,
        caller: principal,
        autoAck: query.ack === 'auto',
        inbox: query.inbox === '1',
        from: query.from,
        resume,
        malformed: sent !== undefined && resume === undefined,
      },
      stream,
    );
  }
}

/** A new token for an open stream, so that it need not end with the old one. */
@Controller('v1/stream/renewals')
class RenewalsController {
  constructor(
    private readonly tokens: Tokens,
    private readonly hubs: Hubs,
    private readonly connections: OpenConnectionsStore,
    private readonly commands: StreamCommandsStore,
    private readonly changes: ChangeFeed,
  ) {}

  /** Answers when the renewal is stored; the node that holds the stream applies it within a second. */
  @Post()
  @Describe(renewStreamDescription)
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
    await this.commands.renew(tenantId, {
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

@Controller('v1/stream/tickets')
class TicketsController {
  constructor(private readonly tickets: Tickets) {}

  /** A token in its seconds of grace gets none: its stream would have to end before it began. */
  @Post()
  @Describe(issueTicketDescription)
  @RouteSettings({ bodyBytes: 1_024 })
  @UserOnly({ clockTolerance: false })
  @PaidFrom('tickets')
  @Header('cache-control', 'no-store')
  async issue(
    @CurrentPrincipal() principal: Principal,
    @Query() query: unknown,
    @Body() body: unknown,
  ): Promise<Ticket> {
    refuseQuery(query);
    const { device } = body === undefined ? {} : parseBody(ticketRequestSchema, body);
    const { ticket, expiresAt } = await this.tickets.issue(
      principal,
      principal.device ?? device ?? DEFAULT_DEVICE,
    );
    return { ticket, expiresAt: expiresAt.toISOString() };
  }
}

@Module({
  imports: [AuthModule, ChangeFeedModule, InboxModule, ReceiptsModule, TenantsModule],
  controllers: [StreamController, RenewalsController, TicketsController],
  providers: [
    StreamOpener,
    Streams,
    Hubs,
    LogFeed,
    InboxFeed,
    Backlog,
    ConnectionQuota,
    Eviction,
    OpenConnectionsStore,
    StreamControl,
    StreamCommands,
    StreamCommandsStore,
    NodePurge,
  ],
  exports: [
    ConnectionQuota,
    InboxFeed,
    LogFeed,
    NodePurge,
    OpenConnectionsStore,
    StreamCommandsStore,
    Streams,
  ],
})
export class StreamModule {}
