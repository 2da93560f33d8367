import { Module } from '@nestjs/common';
import { AcksController } from './acks.controller.ts';
import { AcksStore } from './acks.store.ts';
import { Acknowledgements } from './acks.ts';
import { ArrivalsStore } from './arrivals.store.ts';
import { LedgerStore } from './ledger.store.ts';
import { Ledger } from './ledger.ts';
import { NodeName } from '../cluster/node-name.ts';
import { NodesStore } from '../cluster/nodes.store.ts';

@Module({
  controllers: [AcksController],
  providers: [AcksStore, Acknowledgements, ArrivalsStore, Ledger, LedgerStore, NodeName, NodesStore],
  exports: [ArrivalsStore, Ledger, NodeName],
})
export class LedgerModule {}
