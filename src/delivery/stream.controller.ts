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
  Post,
  Query,
  Req,
  Res,
  UseFilters,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CurrentPrincipal, isService, type Principal, RouteSettings, UserOnly } from '../http/access.ts';
import { type Config, CONFIG } from '../core/config.ts';
import { DEFAULT_DEVICE, deviceIdSchema } from '../core/identifiers.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import { parsePosition } from '../core/position.ts';
import { byeFrame, jittered } from './frames.ts';
import { openEventStream, STREAM_HEADERS } from './socket.ts';
import { StreamOpener } from './stream-opener.ts';
import { z } from 'zod';
import { PaidFrom } from '../auth/budgets.ts';
import { tokenInvalid } from '../auth/credentials.ts';
import { Tokens } from '../auth/tokens.ts';
import { ChangeFeed } from '../cluster/change-feed.ts';
import { Problem } from '../core/errors.ts';
import { Hubs } from './connection.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';
import { StreamCommandsStore } from './stream-commands.store.ts';
import { Tickets } from '../auth/tickets.ts';
import { sendProblem, toProblem } from '../http/problem.filter.ts';

/**
 * The query of GET /v1/stream. Nothing in it says whose stream it is: that is in the token. What is not known is left out, and
 * not refused as on all other routes: a client that adds a number against caches would give up for ever.
 */
export const streamQuerySchema = z
  .object({
    device: deviceIdSchema.optional().meta({
      description:
        "Which of the user's devices this is; `default` if absent. A `device` claim in the token wins.",
    }),
    ticket: z.string().optional().meta({
      description:
        'From `POST /v1/stream/tickets`, in place of a token. It opens one stream; its device is that of the ticket.',
    }),
    from: z
      .enum(['undelivered', 'latest', 'earliest'])
      .default('undelivered')
      .meta({ description: 'Where to start without a position.' }),
    ack: z
      .enum(['explicit', 'auto'])
      .default('explicit')
      .meta({ description: '`auto`: the cursor follows what was written, and nothing becomes `delivered`.' }),
    // Any text: a bad position is never a 4xx, which would make an EventSource give up for ever. A client that
    // adds it to a URL that has one means the last.
    lastEventId: z
      .preprocess((sent: unknown) => (Array.isArray(sent) ? sent.at(-1) : sent), z.string().optional())
      .meta({
        description:
          'The last id that was seen, for a reloaded page, which cannot set `Last-Event-ID`. The header wins; of several the last one counts.',
      }),
  })
  .meta({ id: 'StreamQuery' });

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
export class StreamController {
  constructor(
    private readonly opener: StreamOpener,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Get()
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
        from: query.from,
        resume,
        malformed: sent !== undefined && resume === undefined,
      },
      stream,
    );
  }
}

/** The body of POST /v1/stream/renewals. */
export const renewalSchema = z
  .strictObject({
    connectionId: z.uuid().meta({ description: 'From the `sync` event of the stream.' }),
    token: z
      .string()
      .regex(/^[A-Za-z0-9\-._~+/]{1,8192}=*$/, 'is not a token')
      .meta({ description: 'A new token of the same user and tenant.' }),
  })
  .meta({ id: 'Renewal' });

/** The answer: until when the stream may stay open. */
export const renewedSchema = z.object({ tokenExpiresAt: z.iso.datetime() }).meta({ id: 'Renewed' });

/** A new token for an open stream, so that it need not end with the old one. */
@Controller('v1/stream/renewals')
export class RenewalsController {
  constructor(
    private readonly tokens: Tokens,
    private readonly hubs: Hubs,
    private readonly connections: OpenConnectionsStore,
    private readonly commands: StreamCommandsStore,
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

/** The body of a request for a ticket; it may be left out. */
export const ticketRequestSchema = z
  .strictObject({
    device: deviceIdSchema.optional().meta({
      description:
        'The device whose stream the ticket opens. Default: `default`. The `device` claim of the token wins.',
    }),
  })
  .meta({ id: 'TicketRequest' });

export const ticketSchema = z
  .object({
    ticket: z.string().meta({ description: 'For the query of one `GET /v1/stream`. Opaque.' }),
    expiresAt: z.iso.datetime({ precision: 3 }).meta({ description: 'From then on it opens nothing.' }),
  })
  .meta({ id: 'Ticket' });

@Controller('v1/stream/tickets')
export class TicketsController {
  constructor(private readonly tickets: Tickets) {}

  /** A token in its seconds of grace gets none: its stream would have to end before it began. */
  @Post()
  @RouteSettings({ bodyBytes: 1_024 })
  @UserOnly({ clockTolerance: false })
  @PaidFrom('tickets')
  @Header('cache-control', 'no-store')
  async issue(
    @CurrentPrincipal() principal: Principal,
    @Query() query: unknown,
    @Body() body: unknown,
  ): Promise<z.infer<typeof ticketSchema>> {
    refuseQuery(query);
    const { device } = body === undefined ? {} : parseBody(ticketRequestSchema, body);
    const { ticket, expiresAt } = await this.tickets.issue(
      principal,
      principal.device ?? device ?? DEFAULT_DEVICE,
    );
    return { ticket, expiresAt: expiresAt.toISOString() };
  }
}
