import { Module } from '@nestjs/common';
import { Changes } from './changes.ts';
import { ChangesStore } from './changes.store.ts';
import { GraceStore } from './grace.store.ts';

@Module({ providers: [Changes, ChangesStore, GraceStore], exports: [Changes, GraceStore] })
export class ChangesModule {}
