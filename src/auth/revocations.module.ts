import { Module } from '@nestjs/common';
import { ChangeFeedModule } from '../cluster/change-feed.module.ts';
import { Revocations } from './revocations.ts';
import { RevocationsStore } from './revocations.store.ts';

@Module({
  imports: [ChangeFeedModule],
  providers: [Revocations, RevocationsStore],
  exports: [Revocations, RevocationsStore],
})
export class RevocationsModule {}
