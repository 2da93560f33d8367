import { Module } from '@nestjs/common';
import { Acknowledgements, AcksController } from './acknowledgements.ts';
import { AcksStore } from './acknowledgements.store.ts';
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
