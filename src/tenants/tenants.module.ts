import { Module } from '@nestjs/common';
import { ChangeFeedModule } from '../cluster/change-feed.module.ts';
import { Tenants } from './tenants.ts';
import { TenantsStore } from './tenants.store.ts';

@Module({ imports: [ChangeFeedModule], providers: [Tenants, TenantsStore], exports: [Tenants, TenantsStore] })
export class TenantsModule {}
