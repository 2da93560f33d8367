import { Module } from '@nestjs/common';
import { TenantsModule } from '../tenants/tenants.module.ts';
import { PublishController } from './publish.controller.ts';
import { PublishDoor } from './publish-door.ts';
import { Refusals } from './refusals.ts';

@Module({ imports: [TenantsModule], controllers: [PublishController], providers: [PublishDoor, Refusals] })
export class NotificationsModule {}
