import { Controller, Get, Headers, Inject, Query, Req, Res, UseFilters } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CurrentPrincipal, UserOnly } from '../http/access.decorator.ts';
import type { Principal } from '../http/principal.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { DEFAULT_DEVICE } from '../core/identifiers.ts';
import { parseQuery } from '../http/json-body.ts';
import { parsePosition } from '../core/position.ts';
import { jittered } from './frames.ts';
import { PassingTroubleFilter } from './passing-trouble.filter.ts';
import { openEventStream, STREAM_HEADERS } from './socket.ts';
import { streamQuerySchema } from './stream.query.ts';
import { Streams } from './streams.ts';

@Controller('v1/stream')
@UseFilters(PassingTroubleFilter)
export class StreamController {
  constructor(
    private readonly streams: Streams,
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
    await this.streams.open(
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
