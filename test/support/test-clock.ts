const real = Date.now;

/**
 * The clock of this process, and so of the services that a test starts in it: it stands still unless the test moves it.
 * Timers go on by themselves, so whatever is looked at again and again is seen to be due then, however slow the machine is.
 * The clock of the database is another one, and goes on.
 */
export class TestClock {
  constructor() {
    this.set(real());
  }

  /** ms since 1970. */
  set(now: number): void {
    Date.now = () => now;
  }

  restore(): void {
    Date.now = real;
  }
}
