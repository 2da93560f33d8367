import { Module } from '@nestjs/common';
import { AuthModule } from '../auth/auth.module.ts';
import { ChangeFeedModule } from '../cluster/change-feed.ts';
import { ReceiptsModule } from '../receipts/receipts.module.ts';
import { TenantsModule } from '../tenants/tenants.module.ts';
import { LogFeed } from './log-feed.ts';
import { StreamOpener } from './stream-opener.ts';
import { Backlog } from './backlog.ts';
import { ConnectionQuota } from './connection-quota.ts';
import { NodePurge } from './node-purge.ts';
import { Hubs } from './connection.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';
import { Eviction } from './eviction.ts';
import { RenewalsController, StreamController, TicketsController } from './stream.controller.ts';
import { StreamCommands, StreamControl } from './stream-commands.ts';
import { StreamCommandsStore } from './stream-commands.store.ts';
import { Streams } from './streams.ts';

@Module({
  imports: [AuthModule, ChangeFeedModule, ReceiptsModule, TenantsModule],
  controllers: [StreamController, RenewalsController, TicketsController],
  providers: [
    StreamOpener,
    Streams,
    Hubs,
    LogFeed,
    Backlog,
    ConnectionQuota,
    Eviction,
    OpenConnectionsStore,
    StreamControl,
    StreamCommands,
    StreamCommandsStore,
    NodePurge,
  ],
  exports: [ConnectionQuota, LogFeed, NodePurge, OpenConnectionsStore, StreamCommandsStore, Streams],
})
export class StreamModule {}
