import { Module } from '@nestjs/common';
import { TenantsModule } from '../tenants/tenants.ts';
import { PublishController } from '../publishing/publish.controller.ts';
import { PublishAdmission } from '../publishing/publish-admission.ts';
import { RejectionThrottle } from '../publishing/rejection-throttle.ts';

@Module({
  imports: [TenantsModule],
  controllers: [PublishController],
  providers: [PublishAdmission, RejectionThrottle],
})
export class NotificationsModule {}
