import { Module } from '@nestjs/common';
import { TenantsModule } from '../tenants/tenants.module.ts';
import { PublishController } from './publish.controller.ts';

@Module({ imports: [TenantsModule], controllers: [PublishController] })
export class NotificationsModule {}
