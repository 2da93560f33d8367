import { Global, Module } from '@nestjs/common';
import { AppendStore } from './append.store.ts';
import { Ingest } from './ingest.ts';
import { PartitionsModule } from './partitions.module.ts';
import { ReadStore } from './read.store.ts';

@Global()
@Module({
  imports: [PartitionsModule],
  providers: [AppendStore, ReadStore, Ingest],
  exports: [AppendStore, ReadStore, Ingest, PartitionsModule],
})
export class LogModule {}
