import { ModernFakeTimers } from '@jest/fake-timers';
import { ModuleMocker } from 'jest-mock';

/** Where a test file runs: in the process of its worker, as the service runs in its own. See runtime.mjs. */
export default class Environment {
  /** Jest replaces members of it, which must not be those of the process. */
  global = Object.create(globalThis, { process: { value: { ...process } } });
  moduleMocker = new ModuleMocker(globalThis);

  constructor({ projectConfig }) {
    this.fakeTimersModern = new ModernFakeTimers({ config: projectConfig, global: globalThis });
  }

  async setup() {}

  async teardown() {
    this.moduleMocker.restoreAllMocks();
    this.fakeTimersModern.dispose();
  }

  /** Jest asks for the method; what uses a context of `node:vm` is replaced by runtime.mjs. */
  getVmContext() {
    return null;
  }
}
