import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CROSS_TENANT } from '../postgres/entity-transactions.ts';
import { AuditEntity, AuditStore } from './audit.store.ts';

/** The record of what administrators do. Rows are written with both logins: together with a tenant, and with an issuer. */
@Module({
  imports: [TypeOrmModule.forFeature([AuditEntity]), TypeOrmModule.forFeature([AuditEntity], CROSS_TENANT)],
  providers: [AuditStore],
  exports: [AuditStore],
})
export class AuditModule {}
