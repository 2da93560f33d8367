import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe } from '@jest/globals';

const VERSIONS = '/usr/lib/postgresql';
const NEEDED = ['initdb', 'postgres', 'psql', 'pg_dump', 'pg_restore'];

/** The folder above `bin` of the newest PostgreSQL of Debian that has server and clients. */
function findPrograms(): string | undefined {
  if (!existsSync(VERSIONS)) return undefined;
  return readdirSync(VERSIONS)
    .sort((a, b) => Number(b) - Number(a))
    .map((version) => join(VERSIONS, version))
    .find((folder) => NEEDED.every((program) => existsSync(join(folder, 'bin', program))));
}

/**
 * Runs these tests with the PostgreSQL of Debian: the embedded one comes without `pg_dump`, and a `pg_dump` reads no server that
 * is newer than itself. Without it they are skipped, or fail where all programs are required.
 *
 * @param tests are given the folder above `bin`
 */
export function describeWithDebianPostgres(name: string, tests: (programs: string) => void): void {
  const programs = findPrograms();
  const missing = `PostgreSQL with psql, pg_dump and pg_restore is not installed (looked in ${VERSIONS})`;
  if (programs === undefined && process.env['TIDINGS_REQUIRE_BROWSERS'] === '1') throw new Error(missing);
  if (programs === undefined) process.stderr.write(`Skipped: ${missing}.\n`);
  (programs === undefined ? describe.skip : describe)(name, () => tests(programs ?? ''));
}
