/*
 * The built service with other constants than its own, for tests that would otherwise wait for them:
 * `node tuned-service.mjs '{"LOG_POLL_MS":200}'`.
 */
// By an address that linters do not follow: they are not to read what was built.
const { run } = await import(new URL('../../dist/src/app/run.js', import.meta.url).href);

await run(process.env, JSON.parse(process.argv[2] ?? '{}'));
