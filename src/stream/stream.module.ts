import { Module } from '@nestjs/common';
import { LedgerModule } from '../ledger/ledger.module.ts';
import { Arrivals } from './arrivals.ts';
import { Backlog } from './backlog.ts';
import { StreamController } from './stream.controller.ts';
import { Streams } from './streams.ts';

@Module({
  imports: [LedgerModule],
  controllers: [StreamController],
  providers: [Streams, Arrivals, Backlog],
  exports: [Streams],
})
export class StreamModule {}
