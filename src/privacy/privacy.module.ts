import { Module } from '@nestjs/common';
import { AdminModule } from '../admin/admin.module.ts';
import { AuditModule } from '../audit/audit.store.ts';
import { ChangeFeedModule } from '../cluster/change-feed.module.ts';
import { HistoryModule } from '../history/history.module.ts';
import { StreamModule } from '../delivery/stream.module.ts';
import { TenantsModule } from '../tenants/tenants.ts';
import { DeletionController } from './deletion.controller.ts';
import { ErasureWorker } from './erasure-worker.ts';
import { ErasureListener } from './erasure-listener.ts';
import { ErasureRequests } from './erasure-requests.ts';
import { ErasureRegistry } from './erasure-registry.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';
import { ErasureWorkerStore } from './erasure-worker.store.ts';
import { ExportStore } from './export.store.ts';
import { Exports } from './exports.ts';
import { UserDataController } from './user-data.controller.ts';

/** What a user, or a tenant, has here: shown, and taken away. */
@Module({
  imports: [AdminModule, AuditModule, ChangeFeedModule, HistoryModule, StreamModule, TenantsModule],
  controllers: [UserDataController, DeletionController],
  providers: [
    ErasureRegistry,
    ErasureRegistryStore,
    ErasureWorkerStore,
    ErasureListener,
    ErasureRequests,
    ErasureWorker,
    Exports,
    ExportStore,
  ],
})
export class PrivacyModule {}
