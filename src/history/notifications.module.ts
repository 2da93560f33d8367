import { Module } from '@nestjs/common';
import { TenantsModule } from '../tenants/tenants.module.ts';
import { PublishController } from '../publishing/publish.controller.ts';
import { PublishDoor } from '../publishing/publish-door.ts';
import { Refusals } from '../publishing/refusals.ts';

@Module({ imports: [TenantsModule], controllers: [PublishController], providers: [PublishDoor, Refusals] })
export class NotificationsModule {}
