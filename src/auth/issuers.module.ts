import { Module } from '@nestjs/common';
import { ChangesModule } from '../cluster/changes.module.ts';
import { Issuers } from './issuers.ts';
import { IssuersStore } from './issuers.store.ts';

/** Who may sign tokens. Needs global providers of CONFIG and the database. */
@Module({
  imports: [ChangesModule],
  providers: [Issuers, IssuersStore],
  exports: [Issuers, IssuersStore],
})
export class IssuersModule {}
