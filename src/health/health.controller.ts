import { Controller, Get, HttpStatus, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { Public, RouteSettings } from '../http/access.ts';
import { AppendPool } from '../postgres/pools.ts';
import type { Ready } from './health.schema.ts';
import { Readiness } from './readiness.ts';

@Controller('health')
export class HealthController {
  constructor(
    private readonly readiness: Readiness,
    private readonly appends: AppendPool,
  ) {}

  /** 200 as long as the process can answer. Asks nobody: a database that is away is no reason to restart the service. */
  @Get('live')
  @Public()
  @RouteSettings({ quiet: true })
  live(@Res({ passthrough: true }) reply: FastifyReply): { status: 'live' } {
    reply.header('cache-control', 'no-store');
    return { status: 'live' };
  }

  /** 200, or 503 while draining or not migrated. */
  @Get('ready')
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
