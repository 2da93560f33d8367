import { Module } from '@nestjs/common';
import { AcksController } from './acks.controller.ts';
import { AcksStore } from './acks.store.ts';
import { Acknowledgements } from './acks.ts';
import { ArrivalsStore } from './arrivals.store.ts';
import { LedgerStore } from './ledger.store.ts';
import { Ledger } from './ledger.ts';
import { NodesStore } from './nodes.store.ts';

@Module({
  controllers: [AcksController],
  providers: [AcksStore, Acknowledgements, ArrivalsStore, Ledger, LedgerStore, NodesStore],
  exports: [ArrivalsStore, Ledger, NodesStore],
})
export class LedgerModule {}
