import { Controller, Get, Global, HttpStatus, Module, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { AppendPool } from '../postgres/pools.ts';
import { HealthStore, Readiness, type Ready } from './readiness.store.ts';
import { Draining } from '../core/draining.ts';
import { Public, RouteSettings } from '../http/access.ts';
import { Describe } from '../http/description.ts';
import { liveDescription, readyDescription } from './health.openapi.ts';

@Controller('health')
class HealthController {
  constructor(
    private readonly readiness: Readiness,
    private readonly appends: AppendPool,
  ) {}

  /** 200 as long as the process can answer. It does not ask the database: if that is away, a restart would not help. */
  @Get('live')
  @Describe(liveDescription)
  @Public()
  @RouteSettings({ quiet: true })
  live(@Res({ passthrough: true }) reply: FastifyReply): { status: 'live' } {
    reply.header('cache-control', 'no-store');
    return { status: 'live' };
  }

  /** 200, or 503 while draining or not migrated. */
  @Get('ready')
  @Describe(readyDescription)
  @Public()
  @RouteSettings({ quiet: true })
  async ready(@Res({ passthrough: true }) reply: FastifyReply): Promise<Ready> {
    const report = await this.readiness.report();
    const { failure } = this.appends;
    reply.header('cache-control', 'no-store');
    reply.status(report.status === 'ready' ? HttpStatus.OK : HttpStatus.SERVICE_UNAVAILABLE);
    if (failure === undefined) return report;
    return { ...report, database: { ...report.database, writeFailure: failure } };
  }
}

/** Global because of `Draining`, which is asked wherever work begins. */
@Global()
@Module({
  controllers: [HealthController],
  providers: [Draining, HealthStore, Readiness],
  exports: [Draining],
})
export class HealthModule {}
