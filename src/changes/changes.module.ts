import { Module } from '@nestjs/common';
import { Changes } from './changes.ts';
import { ChangesStore } from './changes.store.ts';

@Module({ providers: [Changes, ChangesStore], exports: [Changes] })
export class ChangesModule {}
