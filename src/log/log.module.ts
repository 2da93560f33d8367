import { Global, Module } from '@nestjs/common';
import { TenantsModule } from '../tenants/tenants.module.ts';
import { Accounts } from './accounts.ts';
import { AccountsStore } from './accounts.store.ts';
import { AppendStore } from './append.store.ts';
import { Ingest } from './ingest.ts';
import { KnownKeys } from './known-keys.ts';
import { PartitionsModule } from './partitions.module.ts';
import { ReadStore } from './read.store.ts';

@Global()
@Module({
  imports: [PartitionsModule, TenantsModule],
  providers: [AppendStore, ReadStore, AccountsStore, Accounts, KnownKeys, Ingest],
  exports: [AppendStore, ReadStore, Accounts, KnownKeys, Ingest, PartitionsModule],
})
export class LogModule {}
