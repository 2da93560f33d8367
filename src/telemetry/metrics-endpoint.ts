import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  Controller,
  Get,
  Global,
  Inject,
  Injectable,
  Module,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  Res,
} from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { type Config, CONFIG, ConfigError } from '../core/config.ts';
import { deadlinesOf, limitConnections } from '../http/connections.ts';
import { Public, RouteSettings } from '../http/access.ts';
import { Problem } from '../core/errors.ts';
import { Describe, type Description } from '../http/description.ts';
import { Metrics } from './metrics.ts';

const METRICS = `# HELP tidings_connections Open streams.
# TYPE tidings_connections gauge
tidings_connections 1204
`;

const metricsDescription: Description = {
  id: 'metrics',
  tag: 'Operation',
  summary: 'Metrics of this node',
  description:
    'In the text format of Prometheus. No metric names a tenant. Of several `WORKERS` any one answers for all, and each series has the name of its node as `worker`. Not here, but at an address of their own, if `METRICS_PORT` is set.',
  answers: [
    { status: 200, description: 'All metrics.', content: [{ mediaType: 'text/plain', text: METRICS }] },
  ],
  problems: ['not_found'],
};

/** Connections that it may have: some servers that scrape, and somebody who looks. */
const MOST_CONNECTIONS = 100;

/**
 * The metrics at an address of their own (METRICS_PORT), so that whoever reaches the API does not reach them. Until the
 * last moment: what a node does while it stops is worth seeing.
 */
@Injectable()
export class MetricsListener implements OnApplicationBootstrap, OnApplicationShutdown {
  #server: Server | undefined;

  constructor(
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  /** The port that it listens on, if it does. */
  get port(): number | undefined {
    const address = this.#server?.address();
    return typeof address === 'object' ? address?.port : undefined;
  }

  /** @throws ConfigError if the address cannot be listened on. */
  async onApplicationBootstrap(): Promise<void> {
    const { METRICS_PORT: port, METRICS_HOST: host } = this.config;
    if (port === undefined) return;
    // The same ends of connections as at the other port.
    const { head, request, idle, silence, look, patience } = deadlinesOf(this.config);
    const server = createServer({
      headersTimeout: head,
      requestTimeout: request,
      keepAliveTimeout: idle,
      connectionsCheckingInterval: look,
    });
    server.setTimeout(silence);
    const taken = limitConnections(server, { most: MOST_CONNECTIONS, patience });
    server.on('request', (asked, response) => {
      taken(asked, response);
      this.#answer(asked, response).catch(() => response.writeHead(500).end());
    });
    try {
      await once(server.listen(port, host), 'listening');
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ConfigError(
        `Metrics cannot be served there; correct METRICS_PORT or METRICS_HOST: ${reason}`,
        {
          cause,
        },
      );
    }
    this.#server = server;
  }

  onApplicationShutdown(): void {
    this.#server?.close();
    this.#server?.closeAllConnections();
  }

  async #answer({ method, url }: IncomingMessage, response: ServerResponse): Promise<void> {
    if (url?.split('?', 1)[0] !== '/metrics') return void response.writeHead(404).end();
    if (method !== 'GET' && method !== 'HEAD')
      return void response.writeHead(405, { allow: 'GET, HEAD' }).end();
    const text = await this.metrics.read();
    const headers = { 'content-type': this.metrics.registry.contentType, 'cache-control': 'no-store' };
    response.writeHead(200, headers).end(method === 'HEAD' ? undefined : text);
  }
}

@Controller('metrics')
class MetricsController {
  constructor(
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Pick<Config, 'METRICS_PORT'>,
  ) {}

  /** The Prometheus text exposition format; not here if they have an address of their own. */
  @Get()
  @Describe(metricsDescription)
  @Public()
  @RouteSettings({ quiet: true })
  read(@Res({ passthrough: true }) reply: FastifyReply): Promise<string> {
    if (this.config.METRICS_PORT !== undefined) throw new Problem('not_found', 'No route has this path.');
    reply.header('content-type', this.metrics.registry.contentType).header('cache-control', 'no-store');
    return this.metrics.read();
  }
}

/** Global, because every feature counts something. */
@Global()
@Module({ controllers: [MetricsController], providers: [Metrics, MetricsListener], exports: [Metrics] })
export class MetricsModule {}
