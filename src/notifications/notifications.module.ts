import { Module } from '@nestjs/common';
import { PublishController } from './publish.controller.ts';

@Module({ controllers: [PublishController] })
export class NotificationsModule {}
