import { listenGuarded } from '../../support/guarded-app.ts';
import { startPostgres } from '../../support/postgres-server.ts';
import { TEST_SECRET } from '../../support/tokens.ts';

/* Nest, Fastify and the guard of Tidings in front of a route that does nothing: the least that a publish can cost. */

const postgres = await startPostgres();
process.once('SIGTERM', () => void postgres.remove().then(() => process.exit()));
await listenGuarded(postgres, { JWT_SECRET: TEST_SECRET }, undefined, Number(process.argv[2]));
