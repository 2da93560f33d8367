import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import type { FastifyAdapter } from '@nestjs/platform-fastify';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Level, Logger } from 'pino';
import { Metrics } from './metrics.ts';
import { REQUEST_ID_HEADER, requestIdOf } from './request-id.ts';
import { ROOT_LOGGER } from './root-logger.ts';
import { parseTraceparent } from './traceparent.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Asked every few seconds by machines: logged at debug. */
    quiet?: boolean;
  }
}

/** Longest path that is logged of a request that no route took. */
const MAX_PATH = 256;

/**
 * Gives every request its id, and when it is over one line and one observation. The line is made of a list of known
 * fields: no header, query value, body or token has a way into it, and the path is the route's pattern.
 *
 * It hangs on the response's `close`, which also comes for a caller who left. A stream takes its socket away from the
 * response, so that none comes: the stream says itself when it opens and ends.
 */
@Injectable()
export class RequestLog implements OnModuleInit {
  constructor(
    private readonly host: HttpAdapterHost<FastifyAdapter>,
    private readonly metrics: Metrics,
    @Inject(ROOT_LOGGER) private readonly logger: Logger,
  ) {}

  onModuleInit(): void {
    const fastify = this.host.httpAdapter.getInstance();
    fastify.setGenReqId((raw) => requestIdOf(raw.headers));
    fastify.addHook('onRequest', (request, reply, done) => {
      const start = performance.now();
      reply.header(REQUEST_ID_HEADER, request.id);
      reply.raw.once('close', () => this.#ended(request, reply, performance.now() - start));
      done();
    });
  }

  #ended(request: FastifyRequest, reply: FastifyReply, milliseconds: number): void {
    const { url: route, config } = request.routeOptions;
    const status = reply.raw.writableFinished ? reply.raw.statusCode : undefined;
    this.metrics.httpRequests.observe(
      { method: request.method, route: route ?? 'unmatched', status: status ?? 'aborted' },
      milliseconds / 1_000,
    );
    const level = config.quiet === true ? 'debug' : levelOf(status);
    if (!this.logger.isLevelEnabled(level)) return;
    this.logger[level](
      {
        requestId: request.id,
        traceId: parseTraceparent(request.headers['traceparent'])?.traceId,
        method: request.method,
        ...(route === undefined ? { path: pathOf(request.url) } : { route }),
        ...(status === undefined ? { aborted: true } : { status }),
        milliseconds: Math.round(milliseconds * 100) / 100,
        tenant: request.user?.tenantId,
        subject: request.user?.subject,
      },
      'request',
    );
  }
}

/**
 * 503 is announced overload or a database that is away; any other 5xx is a defect. 429 comes in floods, and who refuses
 * says so in lines of its own.
 */
function levelOf(status: number | undefined): Level {
  if (status === 429) return 'debug';
  if (status === undefined || status < 500) return 'info';
  return status === 503 ? 'warn' : 'error';
}

function pathOf(url: string): string {
  const query = url.indexOf('?');
  return (query === -1 ? url : url.slice(0, query)).slice(0, MAX_PATH);
}
