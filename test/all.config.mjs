import everybody from '../jest.config.mjs';

/** `npm run test:all`: also what needs programs of others, takes real time or kills things. */
export default {
  ...everybody,
  rootDir: '..',
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/fairness/'],
};
