import { Global, Module } from '@nestjs/common';
import { MetricsController } from './metrics.controller.ts';
import { Metrics } from './metrics.ts';
import { MetricsListener } from './metrics-listener.ts';

/** Global, because every feature counts something. */
@Global()
@Module({ controllers: [MetricsController], providers: [Metrics, MetricsListener], exports: [Metrics] })
export class MetricsModule {}
