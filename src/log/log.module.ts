import { Global, Module } from '@nestjs/common';
import { TenantsModule } from '../tenants/tenants.ts';
import { Quotas } from './quota.ts';
import { UsageStore } from './accounts.store.ts';
import { AppendStore } from './append.store.ts';
import { Ingest } from './ingest.ts';
import { IdempotencyRecords } from './idempotency.ts';
import { PartitionsModule } from './partitions.module.ts';
import { ReadStore } from './read.store.ts';

@Global()
@Module({
  imports: [PartitionsModule, TenantsModule],
  providers: [AppendStore, ReadStore, UsageStore, Quotas, IdempotencyRecords, Ingest],
  exports: [AppendStore, ReadStore, Quotas, IdempotencyRecords, Ingest, PartitionsModule],
})
export class LogModule {}
