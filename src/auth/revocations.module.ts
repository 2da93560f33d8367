import { Module } from '@nestjs/common';
import { ChangesModule } from '../cluster/changes.module.ts';
import { Revocations } from './revocations.ts';
import { RevocationsStore } from './revocations.store.ts';

@Module({
  imports: [ChangesModule],
  providers: [Revocations, RevocationsStore],
  exports: [Revocations, RevocationsStore],
})
export class RevocationsModule {}
