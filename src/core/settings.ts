import type { Config } from './config.ts';

/* The application is created after its database was opened, which is when these are known. */

/** Where callers' requests are read and written, for one tenant at a time. */
export const serviceUrl = ({ DATABASE_URL: url }: Pick<Config, 'DATABASE_URL'>): string => known(url);

/** Where statements across tenants run. */
export const engineUrl = ({ DATABASE_ENGINE_URL: url }: Pick<Config, 'DATABASE_ENGINE_URL'>): string =>
  known(url);

function known(url: string | undefined): string {
  if (url === undefined) throw new Error('The application is created after its database was opened.');
  return url;
}
