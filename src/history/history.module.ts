import { Module } from '@nestjs/common';
import { ConnectionsController } from './connections.controller.ts';
import { ConnectionsStore } from './connections.store.ts';
import { CountsStore } from './counts.store.ts';
import { DeliveriesStore } from './deliveries.store.ts';
import { HistoryController } from './history.controller.ts';
import { HistoryService } from './history.service.ts';
import { HistoryStore } from './history.store.ts';
import { TimelineStore } from './timeline.store.ts';

/** What reached whom, and when; who is connected, and who was. */
@Module({
  controllers: [HistoryController, ConnectionsController],
  providers: [HistoryService, HistoryStore, DeliveriesStore, CountsStore, TimelineStore, ConnectionsStore],
  exports: [HistoryService, ConnectionsStore],
})
export class HistoryModule {}
