/* The built service with other constants than its own, for tests that would otherwise wait for them: `node tuned-service.mjs '{"LOG_POLL_MS":200}'`. */
import { run } from '../../dist/src/app/run.js';

await run(process.env, JSON.parse(process.argv[2] ?? '{}'));
