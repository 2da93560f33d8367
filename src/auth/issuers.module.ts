import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CROSS_TENANT } from '../postgres/entity-transactions.ts';
import { Issuers } from './issuers.ts';
import { IssuerEntity, IssuersStore } from './issuers.store.ts';
import { ChangeFeedModule } from '../cluster/change-feed.ts';

/** Who may sign tokens. Needs global providers of CONFIG and the database. */
@Module({
  imports: [ChangeFeedModule, TypeOrmModule.forFeature([IssuerEntity], CROSS_TENANT)],
  providers: [Issuers, IssuersStore],
  exports: [Issuers, IssuersStore],
})
export class IssuersModule {}
