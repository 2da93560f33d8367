import { Module } from '@nestjs/common';
import { AuthModule } from '../auth/auth.module.ts';
import { ChangesModule } from '../cluster/changes.module.ts';
import { LedgerModule } from '../receipts/ledger.module.ts';
import { TenantsModule } from '../tenants/tenants.module.ts';
import { Arrivals } from './arrivals.ts';
import { Backlog } from './backlog.ts';
import { Capacity } from './capacity.ts';
import { Forgetting } from './forgetting.ts';
import { Hubs } from './hubs.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';
import { Replacements } from './replacements.ts';
import { RenewalsController } from './renewals.controller.ts';
import { StreamController } from './stream.controller.ts';
import { StreamControl } from './stream-control.ts';
import { StreamLimitsStore } from './stream-limits.store.ts';
import { StreamOrders } from './stream-orders.ts';
import { StreamOrdersStore } from './stream-orders.store.ts';
import { Streams } from './streams.ts';
import { TicketsController } from './tickets.controller.ts';

@Module({
  imports: [AuthModule, ChangesModule, LedgerModule, TenantsModule],
  controllers: [StreamController, RenewalsController, TicketsController],
  providers: [
    Streams,
    Hubs,
    Capacity,
    Replacements,
    StreamLimitsStore,
    StreamControl,
    StreamOrders,
    StreamOrdersStore,
    OpenConnectionsStore,
    Arrivals,
    Backlog,
    Forgetting,
  ],
  exports: [Forgetting, StreamOrdersStore, OpenConnectionsStore],
})
export class StreamModule {}
