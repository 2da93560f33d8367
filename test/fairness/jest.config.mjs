import base from '../../jest.config.mjs';

/** Apart from all others, and one after the other: these tests measure. */
export default {
  ...base,
  rootDir: '../..',
  roots: ['<rootDir>/test/fairness'],
  testPathIgnorePatterns: ['/node_modules/'],
  maxWorkers: 1,
};
