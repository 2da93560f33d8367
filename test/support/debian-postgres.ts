import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describeUnless } from './programs.ts';

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
  describeUnless(programs === undefined ? missing : undefined)(name, () => tests(programs ?? ''));
}
