import { Module } from '@nestjs/common';
import { AcksController } from './acks.controller.ts';
import { AcksStore } from './acks.store.ts';
import { Acknowledgements } from './acks.ts';
import { DevicesStore } from './devices.store.ts';
import { ReceiptsStore } from './receipts.store.ts';
import { Receipts } from './receipts.ts';
import { NodeName } from '../cluster/node-name.ts';
import { NodesStore } from '../cluster/nodes.store.ts';

@Module({
  controllers: [AcksController],
  providers: [AcksStore, Acknowledgements, DevicesStore, Receipts, ReceiptsStore, NodeName, NodesStore],
  exports: [DevicesStore, Receipts, NodeName],
})
export class ReceiptsModule {}
