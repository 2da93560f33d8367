import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Appends that were given up with their connection, by the stream row that every append has to lock. */
export class AbandonedAppends1700000000002 implements MigrationInterface {
  name = 'AbandonedAppends1700000000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table streams add column abandoned uuid[] not null default '{}'`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table streams drop column abandoned`);
  }
}
