/*
 * For tests of what uses Tidings: a service, a browser and a clock in memory. They speak the protocol to the byte, fail when
 * they are told to, and wait for nobody.
 */
export {
  createFakeBrowser,
  type FakeBrowser,
  type FakeBrowserOptions,
  type FakeTab,
} from './testing/browser.ts';
export { createFakeClock, type FakeClock } from './testing/clock.ts';
export {
  createFakeService,
  type FakeFaults,
  type FakeRefusal,
  type FakeService,
  type FakeServiceOptions,
  type FaultScope,
  type HeldAnswers,
  type KnownDevice,
  type OpenStream,
  type Publication,
  type SeenRequest,
} from './testing/service.ts';
