import { createRequire, registerHooks } from 'node:module';
import { pathToFileURL } from 'node:url';

/*
 * Runs test files with the modules of Node, as the service has them, instead of evaluating all of them once more for each test
 * file in a context of `node:vm`. Two hundred files load Nest, TypeORM and the service twice then, once in each worker, and
 * find them compiled: the suite takes less than half of the time. What runs the tests is still jest-circus.
 *
 * The price: modules are shared, so a test file must leave them as they were, and there is no `jest.mock`, which is not used.
 */

const require = createRequire(import.meta.url);

process.setSourceMapsEnabled(true);

// Nothing is open any more then. Node 24.21 has more to do when a process ends by itself, and one in eight or so never came back
// from that (`Environment::CleanupHandles`, at full load), so Jest had to force it.
process.once('beforeExit', () => process.exit());

/** What `@jest/globals` is for the test file that runs now. */
let current = {};

/** The same for all who import it, also for what test files share: asks for what is current each time. */
const delegate = (name) =>
  new Proxy(() => undefined, {
    apply: (_target, self, parameters) => Reflect.apply(current[name], self, parameters),
    get: (_target, property) => current[name][property],
  });

const NAMES = [
  'afterAll',
  'afterEach',
  'beforeAll',
  'beforeEach',
  'describe',
  'expect',
  'it',
  'jest',
  'test',
];
globalThis[Symbol.for('tidings.jest-globals')] = Object.fromEntries(
  NAMES.map((name) => [name, delegate(name)]),
);

const GLOBALS = 'tidings:jest-globals';
registerHooks({
  resolve: (specifier, context, next) =>
    specifier === '@jest/globals'
      ? { url: GLOBALS, format: 'module', shortCircuit: true }
      : next(specifier, context),
  load(url, context, next) {
    if (url !== GLOBALS) return next(url, context);
    const source = `export const { ${NAMES.join(', ')} } = globalThis[Symbol.for('tidings.jest-globals')];`;
    return { format: 'module', source, shortCircuit: true };
  },
});

/** By these jest-circus keeps its state in the process. */
const [HANDLERS, TIMEOUT] = ['EVENT_HANDLERS', 'TEST_TIMEOUT_SYMBOL'].map((name) => Symbol.for(name));

/** What Jest's runner and jest-circus ask of a `runtime` (Jest 30). */
export default class Runtime {
  #jest;

  constructor(_config, { moduleMocker, fakeTimersModern }) {
    this.#jest = {
      fn: moduleMocker.fn.bind(moduleMocker),
      spyOn: moduleMocker.spyOn.bind(moduleMocker),
      restoreAllMocks: () => moduleMocker.restoreAllMocks(),
      useFakeTimers: (options) => fakeTimersModern.useFakeTimers(options),
      useRealTimers: () => fakeTimersModern.useRealTimers(),
      advanceTimersByTime: (ms) => fakeTimersModern.advanceTimersByTime(ms),
      setTimeout: (ms) => (globalThis[TIMEOUT] = ms),
    };
  }

  /** What runs the tests, new for each file: its state is that of one. */
  requireInternalModule(path) {
    delete globalThis[HANDLERS];
    delete globalThis[TIMEOUT];
    delete require.cache[path];
    return require(path);
  }

  setGlobalsForRuntime(globals) {
    current = { ...globals, jest: this.#jest };
  }

  unstable_shouldLoadAsEsm() {
    return true;
  }

  unstable_importModule(path) {
    // Jest's runner looks for source maps of its own transformers only; Node knows those that modules came with.
    delete Error.prepareStackTrace;
    return import(pathToFileURL(path).href);
  }

  requireModule(path) {
    return require(path);
  }

  enterTestCode() {}

  leaveTestCode() {}

  getSourceMaps() {
    return new Map();
  }

  getAllCoverageInfoCopy() {
    return {};
  }

  teardown() {}
}
