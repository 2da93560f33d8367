/** Jest runs the TypeScript as ES modules: Nest 12 cannot be required, and swc keeps the decorator metadata that injection needs. */
export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  // They want the machine for themselves: `npm run test:fairness`.
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/fairness/'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      {
        sourceMaps: 'inline',
        jsc: {
          target: 'es2024',
          parser: { syntax: 'typescript', decorators: true },
          transform: { legacyDecorator: true, decoratorMetadata: true },
          experimental: { keepImportAttributes: true },
        },
        module: { type: 'es6' },
      },
    ],
  },
  globalSetup: '<rootDir>/test/support/global-setup.ts',
  globalTeardown: '<rootDir>/test/support/global-teardown.ts',
  // Only what hangs is to end by it: what a test promises in time it measures itself.
  testTimeout: 180_000,
  maxWorkers: 2,
};
