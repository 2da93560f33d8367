import { Controller, Get, Inject, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { Public } from '../http/access.decorator.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import { RouteSettings } from '../http/route-settings.ts';
import { Metrics } from './metrics.ts';

@Controller('metrics')
export class MetricsController {
  constructor(
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Pick<Config, 'METRICS_PORT'>,
  ) {}

  /** The Prometheus text exposition format; not here if they have an address of their own. */
  @Get()
  @Public()
  @RouteSettings({ quiet: true })
  read(@Res({ passthrough: true }) reply: FastifyReply): Promise<string> {
    if (this.config.METRICS_PORT !== undefined) throw new Problem('not_found', 'No route has this path.');
    reply.header('content-type', this.metrics.registry.contentType).header('cache-control', 'no-store');
    return this.metrics.registry.metrics();
  }
}
