import { Module } from '@nestjs/common';
import { AuthModule } from '../auth/auth.module.ts';
import { ChangeFeedModule } from '../cluster/changes.module.ts';
import { ReceiptsModule } from '../receipts/ledger.module.ts';
import { TenantsModule } from '../tenants/tenants.module.ts';
import { DeviceRegistrations } from './arrivals.ts';
import { Backlog } from './backlog.ts';
import { ConnectionQuota } from './capacity.ts';
import { NodePurge } from './forgetting.ts';
import { Hubs } from './hubs.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';
import { Eviction } from './replacements.ts';
import { RenewalsController } from './renewals.controller.ts';
import { StreamController } from './stream.controller.ts';
import { StreamControl } from './stream-control.ts';
import { StreamLimitsStore } from './stream-limits.store.ts';
import { StreamCommands } from './stream-orders.ts';
import { StreamCommandsStore } from './stream-orders.store.ts';
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
