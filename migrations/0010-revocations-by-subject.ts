import type { MigrationInterface, QueryRunner } from 'typeorm';
import { createIndexConcurrently } from './brief-locks.ts';

/** What was revoked before of the same token or user goes when it adds nothing. */
export class RevocationsBySubject1700000000010 implements MigrationInterface {
  name = 'RevocationsBySubject1700000000010';
  transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await createIndexConcurrently(
      runner,
      'revocations_by_subject',
      'on revocations (tenant_id, kind, subject)',
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop index revocations_by_subject`);
  }
}
