import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { ChangeFeedModule } from '../cluster/change-feed.module.ts';
import { Tenants } from './tenants.ts';
import { TenantEntity, TenantsStore } from './tenants.store.ts';

@Module({
  imports: [ChangeFeedModule, TypeOrmModule.forFeature([TenantEntity])],
  providers: [Tenants, TenantsStore],
  exports: [Tenants, TenantsStore],
})
export class TenantsModule {}
