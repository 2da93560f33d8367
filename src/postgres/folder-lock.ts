import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { StartError } from '../core/errors.ts';

/** Holds a folder for one process. */
export interface FolderLock {
  release(): void;
}

/**
 * Takes the folder or throws StartError. Node has no file locks of its own, but SQLite does: an open write
 * transaction on an empty database is a lock of the operating system, which ends with the process however it ends,
 * and which the PostgreSQL that the process starts does not inherit.
 */
export function lockFolder(folder: string): FolderLock {
  const database = new DatabaseSync(join(folder, 'lock'), { timeout: 0 });
  try {
    database.exec('begin exclusive');
  } catch (cause) {
    database.close();
    throw new StartError(
      `Another Tidings is using ${folder}: stop it, or give this one a folder of its own with DATA_DIR.`,
      { cause },
    );
  }
  return { release: () => database.close() };
}
