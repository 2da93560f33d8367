import type { MigrationInterface, QueryRunner } from 'typeorm';

/** An erasure is not done before no node has anything of it in memory (docs/adr/0007-erasure-is-a-row.md). */
export class ErasuresInMemory1700000000007 implements MigrationInterface {
  name = 'ErasuresInMemory1700000000007';

  async up(runner: QueryRunner): Promise<void> {
    // The rows are gone; 'heard' is since then about what was published before the cut, and was read before it went.
    await runner.query(`alter table erasures add column emptied boolean not null default false`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table erasures drop column emptied`);
  }
}
