export default {
  // Node's own modules, loaded once in a worker: see there.
  testEnvironment: '<rootDir>/test/jest/environment.mjs',
  runtime: '<rootDir>/test/jest/runtime.mjs',
  transform: {},
  extensionsToTreatAsEsm: ['.ts'],
  roots: ['<rootDir>/test', '<rootDir>/packages'],
  testMatch: ['**/*.test.ts'],
  // `npm run test:all` has the first three. The last one wants the machine for itself: `npm run test:fairness`.
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/(processes|foreign|chaos|fairness)/'],
  globalSetup: '<rootDir>/test/support/global-setup.ts',
  globalTeardown: '<rootDir>/test/support/global-teardown.ts',
  // Only what hangs is to end by it: what a test promises in time it measures itself.
  testTimeout: 180_000,
  maxWorkers: 4,
  // A worker ends by itself once nothing is open in it, which takes its time on a busy machine. What is left open is still named.
  workerGracefulExitTimeout: 60_000,
};
