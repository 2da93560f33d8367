import { randomBytes } from 'node:crypto';
import type { MigrationInterface, QueryRunner } from 'typeorm';

/** By what nodes know the tickets of one another before they ask the database (src/auth/tickets.ts). */
export class TicketKey1700000000008 implements MigrationInterface {
  name = 'TicketKey1700000000008';

  async up(runner: QueryRunner): Promise<void> {
    // One row. It belongs to no tenant, and opens nothing: a ticket is good by its own row alone.
    await runner.query(`
      create table ticket_keys (
        single boolean not null default true,
        key bytea not null,
        constraint ticket_keys_pkey primary key (single),
        constraint ticket_keys_single check (single)
      )`);
    await runner.query(`insert into ticket_keys (key) values ($1)`, [randomBytes(32)]);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table ticket_keys`);
  }
}
