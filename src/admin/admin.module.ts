import { Module } from '@nestjs/common';
import { AuditModule } from '../audit/audit.store.ts';
import { IssuersModule } from '../auth/issuers.ts';
import { TenantsModule } from '../tenants/tenants.ts';
import { AuditedTransactions } from './audited-transactions.ts';
import { AuditController } from './audit.controller.ts';
import { DisconnectsController } from './disconnects.controller.ts';
import { IssuersController } from './issuers.controller.ts';
import { RevocationsController } from './revocations.controller.ts';
import { TenantsController } from './tenants.controller.ts';
import { ChangeFeedModule } from '../cluster/change-feed.ts';
import { RevocationsModule } from '../auth/revocations.ts';
import { StreamModule } from '../delivery/stream.controller.ts';

/** What administrators and operators do, and the record of it. */
@Module({
  imports: [AuditModule, ChangeFeedModule, IssuersModule, RevocationsModule, StreamModule, TenantsModule],
  controllers: [
    TenantsController,
    IssuersController,
    RevocationsController,
    DisconnectsController,
    AuditController,
  ],
  providers: [AuditedTransactions],
  exports: [AuditedTransactions],
})
export class AdminModule {}
