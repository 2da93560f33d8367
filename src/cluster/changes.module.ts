import { Module } from '@nestjs/common';
import { ChangeFeed } from './changes.ts';
import { ChangeFeedStore } from './changes.store.ts';
import { InFlightTransactionsStore } from './grace.store.ts';

@Module({
  providers: [ChangeFeed, ChangeFeedStore, InFlightTransactionsStore],
  exports: [ChangeFeed, InFlightTransactionsStore],
})
export class ChangeFeedModule {}
