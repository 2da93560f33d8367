import { Module } from '@nestjs/common';
import { ChangeFeedModule } from '../cluster/change-feed.module.ts';
import { Issuers } from './issuers.ts';
import { IssuersStore } from './issuers.store.ts';

/** Who may sign tokens. Needs global providers of CONFIG and the database. */
@Module({
  imports: [ChangeFeedModule],
  providers: [Issuers, IssuersStore],
  exports: [Issuers, IssuersStore],
})
export class IssuersModule {}
