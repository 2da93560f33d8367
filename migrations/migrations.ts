import { FirstTables1700000000001 } from './0001-first-tables.ts';

/** In order. A list and not a glob, so that a build cannot lose one. */
export const migrations = [FirstTables1700000000001];
