import { Module } from '@nestjs/common';
import { MaintenancePool } from '../postgres/pools.ts';
import { PartitionsStore } from './partitions.store.ts';
import { Partitions } from './partitions.ts';

@Module({
  providers: [MaintenancePool, PartitionsStore, Partitions],
  exports: [MaintenancePool, PartitionsStore, Partitions],
})
export class PartitionsModule {}
