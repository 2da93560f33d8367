import { Module } from '@nestjs/common';
import { PartitionsModule } from '../log/partitions.ts';
import { Maintenance } from './maintenance.ts';
import { WatchStore } from './watch.store.ts';

@Module({ imports: [PartitionsModule], providers: [WatchStore, Maintenance], exports: [Maintenance] })
export class MaintenanceModule {}
