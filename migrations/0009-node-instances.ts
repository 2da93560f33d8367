import type { MigrationInterface, QueryRunner } from 'typeorm';
import { withBriefLocks } from './brief-locks.ts';

/** Which process a node is: two that live at the same time cannot have one name (src/cluster/nodes.ts). */
export class NodeInstances1700000000009 implements MigrationInterface {
  name = 'NodeInstances1700000000009';

  async up(runner: QueryRunner): Promise<void> {
    await withBriefLocks(runner);
    // Null: it stopped and left its name, or is of a version that does not say.
    await runner.query(`alter table nodes add column instance uuid`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table nodes drop column instance`);
  }
}
