import { ConfigError, readConfig } from '../config.ts';
import { openDatabase } from '../database/open-database.ts';
import { StartError } from '../database/start-error.ts';

/** `npm run migrate`: brings the tables up to date, as every start of the service does, and nothing else. */
async function main(): Promise<void> {
  const database = await openDatabase(readConfig(process.env), (line) => console.error(line));
  await database.close();
  const { migrations } = database;
  console.log(migrations.length === 0 ? 'Nothing to migrate.' : `Migrated: ${migrations.join(', ')}.`);
}

try {
  await main();
} catch (error) {
  console.error(error instanceof ConfigError || error instanceof StartError ? error.message : error);
  process.exitCode = 1;
}
