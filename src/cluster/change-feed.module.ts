import { Module } from '@nestjs/common';
import { ChangeFeed } from './change-feed.ts';
import { ChangeFeedStore } from './change-feed.store.ts';
import { InFlightTransactionsStore } from './grace.store.ts';

@Module({
  providers: [ChangeFeed, ChangeFeedStore, InFlightTransactionsStore],
  exports: [ChangeFeed, InFlightTransactionsStore],
})
export class ChangeFeedModule {}
