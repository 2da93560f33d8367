import { Module } from '@nestjs/common';
import { AuthModule } from '../auth/auth.module.ts';
import { ChangeFeedModule } from '../cluster/change-feed.module.ts';
import { ReceiptsModule } from '../receipts/receipts.module.ts';
import { TenantsModule } from '../tenants/tenants.ts';
import { DeviceRegistrations } from './device-registrations.ts';
import { Backlog } from './backlog.ts';
import { ConnectionQuota } from './connection-quota.ts';
import { NodePurge } from './node-purge.ts';
import { Hubs } from './hubs.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';
import { Eviction } from './eviction.ts';
import { RenewalsController } from './renewals.controller.ts';
import { StreamController } from './stream.controller.ts';
import { StreamControl } from './stream-control.ts';
import { StreamLimitsStore } from './stream-limits.store.ts';
import { StreamCommands } from './stream-commands.ts';
import { StreamCommandsStore } from './stream-commands.store.ts';
import { Streams } from './streams.ts';
import { TicketsController } from './tickets.controller.ts';

@Module({
  imports: [AuthModule, ChangeFeedModule, ReceiptsModule, TenantsModule],
  controllers: [StreamController, RenewalsController, TicketsController],
  providers: [
    Streams,
    Hubs,
    ConnectionQuota,
    Eviction,
    StreamLimitsStore,
    StreamControl,
    StreamCommands,
    StreamCommandsStore,
    OpenConnectionsStore,
    DeviceRegistrations,
    Backlog,
    NodePurge,
  ],
  exports: [NodePurge, StreamCommandsStore, OpenConnectionsStore],
})
export class StreamModule {}
