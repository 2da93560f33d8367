import type { MigrationInterface, QueryRunner } from 'typeorm';
import { withBriefLocks } from './brief-locks.ts';

/** Which nodes are about to stop: the clients of another one that stops cannot go to these. */
export class DrainingNodes1700000000013 implements MigrationInterface {
  name = 'DrainingNodes1700000000013';

  async up(runner: QueryRunner): Promise<void> {
    await withBriefLocks(runner);
    await runner.query(`alter table nodes add column draining boolean not null default false`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table nodes drop column draining`);
  }
}
