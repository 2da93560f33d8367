import { Global, Module } from '@nestjs/common';
import { Draining } from '../core/draining.ts';
import { HealthController } from './health.controller.ts';
import { HealthStore } from './health.store.ts';
import { Readiness } from './readiness.ts';

/** Global for `Draining`: whoever begins work asks it first. */
@Global()
@Module({
  controllers: [HealthController],
  providers: [Draining, HealthStore, Readiness],
  exports: [Draining],
})
export class HealthModule {}
