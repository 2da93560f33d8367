import { Module } from '@nestjs/common';
import { ChangesModule } from '../cluster/changes.module.ts';
import { Tenants } from './tenants.ts';
import { TenantsStore } from './tenants.store.ts';

@Module({ imports: [ChangesModule], providers: [Tenants, TenantsStore], exports: [Tenants, TenantsStore] })
export class TenantsModule {}
